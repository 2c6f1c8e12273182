"""The paper's profile through Snakemake: planned as a whole, refused before anything starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
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
