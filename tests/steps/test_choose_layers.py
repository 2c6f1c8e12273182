"""The choose_layers step, run as a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lpsteps.artifacts import read_json
from lpsteps.plan import Plan, read_plan
from lpsteps.provenance import read_record
from lpsteps.selection.ranking import Candidate, Ranking, ranked, write_ranking
from lpsteps.steps.choose_layers import main

SPEC = {"n": 3, "model": "tiny", "selection": "bi", "n_layers": 6}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    path = tmp_path / "ranking.parquet"
    scores = [0.9, 0.5, 0.1, 0.4, 0.2, 0.8]
    rows = ranked(
        Candidate((layer,), score, eligible=0 < layer < 5) for layer, score in enumerate(scores)
    )
    write_ranking(path, Ranking("single", rows))
    return [f"--ranking={path}", f"--plan={tmp_path / 'plan.json'}"]


def test_the_plan_follows_the_ranking(tmp_path: Path, arguments: list[str]) -> None:
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 0
    assert read_plan(tmp_path / "plan.json") == Plan.removing(6, (2, 4, 3))
    payload = read_json(tmp_path / "plan.json")
    assert (payload["model"], payload["selection"]) == ("tiny", "bi")
    inputs = read_record(tmp_path / "plan.json")["inputs"]
    assert [Path(entry["path"]).name for entry in inputs] == ["ranking.parquet"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "--spec: n: 0: allowed are 1 to 5"),
        ({"n": 6}, "--spec: n: 6: allowed are 1 to 5"),
        ({"n": 5}, "n: 5: this single ranking has 4 layers to offer"),
        ({"n_layers": 4}, "layers run from 0 to 3"),
        ({"layers": 3}, "layers: unknown key"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    assert main([*arguments, "--spec", json.dumps(SPEC | change)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "plan.json").exists()


def test_a_missing_ranking_is_named(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ranking.parquet").unlink()
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 1
    assert "ranking.parquet: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["choose_layers", "build_patch"])
def test_small_steps_start_without_torch(step: str) -> None:
    program = f"import sys, lpsteps.steps.{step}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
