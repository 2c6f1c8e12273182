"""Programs search for reference cycles rarely; whoever imports a step searches as before."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

# The last one that is registered is called first: this one sees what the program has left.
REPORT = """
import atexit, gc
atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 1000))
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["-m", "lpsteps.steps.choose_layers", "--help"], "500000 True"),
        (["-c", "import lpsteps.steps.choose_layers"], f"{gc.get_threshold()[0]} False"),
    ],
)
def test_only_a_program_of_its_own_collects_garbage_rarely(
    command: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(REPORT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    process = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == expected
