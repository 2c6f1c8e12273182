"""A part of `make test-faults`: every kind of fault that hits single jobs, on a few of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = "fetch_data,choose_layers,build_patch"


def test_disturbed_jobs_give_the_right_bytes_or_tell(finished: Path, tmp_path: Path) -> None:
    """In a process of its own, because its children are forked from it."""
    outcomes = tmp_path / "outcomes.json"
    command = [sys.executable, "-m", "tests.faults.campaign", "--sample", "--kills", "2"]
    command += ["--rules", RULES, "--project", str(finished), "--outcomes", str(outcomes)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    tried = json.loads(outcomes.read_text())
    endings = [outcome["ending"] for outcome in tried]
    assert "wrong" not in endings
    assert endings.count("continued") >= 10 and endings.count("told") >= 10
    assert {outcome["rule"] for outcome in tried} == set(RULES.split(","))
