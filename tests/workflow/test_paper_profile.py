"""The paper's profile through Snakemake: planned as a whole, refused before anything starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from project import CHECKOUT, COPIED, GENERATED, snakemake

PROFILE = "config/paper.yaml"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in COPIED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=GENERATED)
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


def test_the_whole_paper_is_planned_without_network(checkout: Path):
    run = snakemake(checkout, "-n", "reports/tables.html", profile=PROFILE)
    assert run.returncode == 0, run.stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", run.stdout, flags=re.MULTILINE))
    assert counts["fetch_model"] == "7"
    assert int(counts["total"]) > 300


def test_every_name_that_a_partition_may_have_has_its_windows(checkout: Path):
    path = checkout / "config/data.yaml"
    content = yaml.safe_load(path.read_text())
    content["corpora"]["mine"] = content["corpora"]["wikipedia"] | {"partitions": {"a.b+c": 1.0}}
    path.write_text(yaml.safe_dump(content))
    target = "results/llama-2-7b/windows/mine/a.b+c.parquet"
    run = snakemake(checkout, "-n", target, profile=PROFILE)
    assert run.returncode == 0, run.stdout
    assert "tokenize_corpus" in run.stdout
    # Names of no corpus belong to no rule, so that planning does not end in a traceback.
    other = snakemake(checkout, "-n", target.replace("a.b+c", "test-2"), profile=PROFILE)
    assert other.returncode == 1 and "MissingRuleException" in other.stdout, other.stdout


def test_a_run_that_would_fetch_what_is_not_pinned_never_starts(checkout: Path):
    target = "resources/models/baichuan-2-7b/manifest.json"
    for _ in range(2):  # no lock is left behind
        run = snakemake(checkout, target, profile=PROFILE)
        assert run.returncode == 1
        errors = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert errors[0].startswith("error: models.baichuan-2-7b.source.revision: null: ")
        assert "Traceback" not in run.stdout
    assert not (checkout / "resources").exists()
