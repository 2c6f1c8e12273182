"""The command `lpsteps export` on the finished tiny project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from check_harness import differing_rows, harness_outcomes
from project import PROFILE, snakemake

from lpsteps.artifacts import read_json, verify_file_manifest
from lpsteps.config import read_config
from lpsteps.provenance import Lineage

VARIANT = "llm-streamline/n2/linearpatch"
FOLDER = "results/tiny/calibration/wikipedia/selection/llm-streamline/n2/linearpatch"


def export(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a project, as its own checkout has it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "lpsteps.cli", "export", "--model", "tiny"),
            *("--configfile", PROFILE, "--cores", "2", *arguments),
        ],
        cwd=project,
        env={
            **os.environ,
            "LPSTEPS_THREADS": "1",
            "PYTHONPATH": "",
            "HF_MODULES_CACHE": str(project / "hf"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def shown_values(project: Path) -> dict[str, float]:
    """The numbers on the page, by the files that they are read from."""
    tables = json.loads((project / "reports/tables.json").read_text())
    return {cell["source"]["path"]: cell["value"] for cell in tables["cells"] if cell["source"]}


def test_an_export_runs_nothing_that_the_page_has_already(finished: Path):
    target = f"{FOLDER}/checkpoint/manifest.json"
    run = snakemake(finished, "--dry-run", target)
    assert run.returncode == 0, run.stdout
    counts = re.search(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", run.stdout, flags=re.MULTILINE)
    assert counts is not None, run.stdout
    assert [line.split() for line in counts[1].splitlines()] == [
        ["export_model", "1"],
        ["total", "1"],
    ]


def test_a_wrong_name_is_one_line_before_anything_runs(finished: Path):
    run = export(finished, "--variant", "llm-streamline/n2/linearpach", "--to", "away")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1 and VARIANT in run.stderr
    assert not (finished / "away").exists()


@pytest.mark.slow
def test_the_command_exports_what_the_page_shows(copy: Path, monkeypatch: pytest.MonkeyPatch):
    target = copy / "away/tiny"
    run = export(copy, "--variant", VARIANT, "--to", str(target))
    assert run.returncode == 0, run.stderr
    verify_file_manifest(target / "manifest.json")
    record = read_json(target / "export.json")
    assert record["logits_deviation"] == 0.0
    shown = shown_values(copy)
    assert record["scores"]
    for score in [*record["scores"], *record["dense_scores"]]:
        assert score["value"] == shown[score["path"]]
    monkeypatch.chdir(copy)
    assert Lineage().problem(Path(FOLDER, "checkpoint/manifest.json")) is None

    again = export(copy, "--variant", VARIANT, "--to", str(target))
    assert again.returncode == 1 and "--force replaces it" in again.stderr
    before = (target / "manifest.json").read_bytes()
    assert export(copy, "--variant", VARIANT, "--to", str(target), "--force").returncode == 0
    assert (target / "manifest.json").read_bytes() == before
    # The page does not depend on what was exported.
    assert "Nothing to be done" in snakemake(copy, "--dry-run", "reports/tables.html").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "lineage", "trusted"),
    [
        (VARIANT, FOLDER, True),
        ("narrow/n2", "results/tiny/calibration/wikipedia/width/narrow/n2", True),
        ("dense", "results/tiny/dense", False),
    ],
)
def test_lm_eval_scores_an_export_as_the_report_does(
    variant: str, lineage: str, trusted: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its own command line, document by document."""
    run = export(copy, "--variant", variant, "--to", str(copy / "away"))
    assert run.returncode == 0, run.stderr
    monkeypatch.chdir(copy)
    config = read_config(Path(PROFILE))
    scores = {
        name: read_json(copy / lineage / f"scores/{name}.json") for name in ("arc_easy", "copa")
    }
    work = copy / "work"
    work.mkdir()
    outcomes, means = harness_outcomes(config, "tiny", copy / "away", scores, work, trusted=trusted)
    for name, score in scores.items():
        assert differing_rows(score, outcomes[name]) == []
        assert means[name] == pytest.approx(score["value"], rel=1e-12)
