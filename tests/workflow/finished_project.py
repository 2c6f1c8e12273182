"""One finished run of the tiny project, shared by all tests of a run; each test edits a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from project import make_project, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The project after `snakemake reports/tables.html`, built by the first worker that needs it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "tiny"
    with FileLock(f"{folder}.lock"):
        if not (folder / "project/reports/tables.html").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            project = make_project(folder)
            run = snakemake(project, "reports/tables.html")
            assert run.returncode == 0, run.stdout
    return folder / "project"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project with its files' times, to be edited freely."""
    target = tmp_path / "project"
    shutil.copytree(finished, target, symlinks=True)
    return target
