"""Which jobs a cluster runs as one: plans, with the rankings that ask for the same as others."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from project import CHECKOUT, COPIED, GENERATED, snakemake

PROFILE = "config/repairs.yaml"
PLANS = "results/smollm2-135m/calibration/wikipedia-64/selection"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose model asks for a GPU."""
    for name in COPIED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=GENERATED)
        else:
            shutil.copy(source, tmp_path / name)
    path = tmp_path / "config/models.yaml"
    content = yaml.safe_load(path.read_text())
    content["models"]["smollm2-135m"]["gpus"] = 1
    path.write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.mark.parametrize("cluster", ["slurm", "kubernetes"])
def test_a_ranking_that_runs_the_model_is_a_job_of_its_own(checkout: Path, cluster: str):
    """Also one that reads the statistics: it asks for a GPU, and the rankings beside it do not."""
    path = checkout / f"workflow/profiles/{cluster}/config.yaml"
    groups = yaml.safe_load(path.read_text())["groups"]
    targets = [f"{PLANS}/{name}/n5/plan.json" for name in ("shortgpt", "repair-aware")]
    run = snakemake(
        checkout,
        *(*targets, "-n", "--config", "gpu_gres=gpu"),
        *("--groups", *(f"{rule}={group}" for rule, group in groups.items())),
        profile=PROFILE,
    )
    assert run.returncode == 0, run.stdout
    # Jobs of a group are indented.
    grouped = re.findall(r"^ +Job \d+: (.*)$", run.stdout, flags=re.MULTILINE)
    alone = re.findall(r"^Job \d+: (.*)$", run.stdout, flags=re.MULTILINE)
    assert "Ranking layers of smollm2-135m by shortgpt" in grouped
    assert sum(line.startswith("Choosing 5 layers") for line in grouped) == 2
    assert "Ranking layers of smollm2-135m by repair-aware" in alone
