"""The made-up run of the report, written once for all tests and copied for each of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import report_example as example
from report_run import Run

Written = tuple[Path, dict[str, list[str]]]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    return folder, example.write_run(folder)


@pytest.fixture
def run(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    original, paths = written
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path, paths)
