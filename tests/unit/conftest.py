"""A copy of the report's made-up run for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_run import Run

# What is behind scores, plans, patches and curves, and none of the tests with a run reads.
_BEHIND = shutil.ignore_patterns("*.record.json", "resources", "windows")


@pytest.fixture
def run(
    written_run: tuple[Path, dict[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    original, paths = written_run
    shutil.copytree(original, tmp_path, ignore=_BEHIND, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path, paths)
