"""One finished run of the tiny project, shared by all workflow tests; each test edits a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_project import finished_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The project after `snakemake reports/tables.html`, built by the first worker that needs it."""
    return finished_project(tmp_path_factory, worker_id)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project with its files' times, to be edited freely."""
    target = tmp_path / "project"
    shutil.copytree(finished, target, symlinks=True)
    return target


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replace text that must be there exactly once or more in a file."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text, f"{path} has no {old!r}"
        path.write_text(text.replace(old, new))

    return replace
