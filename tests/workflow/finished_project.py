"""One finished run of the tiny project, shared by all tests of a run; each test edits a copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import warm_start
from filelock import FileLock
from project import make_project, snakemake
from shared_folder import shared_folder


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """An interpreter whose programs find their libraries imported, one for all workers."""
    note = shared_folder(tmp_path_factory, worker_id) / "warm_python"
    with FileLock(f"{note}.lock"):
        if not note.exists():
            owner = os.getpid() if worker_id == "master" else os.getppid()
            note.write_text(str(warm_start.start(owner)))
    return Path(note.read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str, warm_python: Path) -> Path:
    """The project after `snakemake reports/tables.html`, built by the first worker that needs it."""
    folder = shared_folder(tmp_path_factory, worker_id) / "tiny"
    with FileLock(f"{folder}.lock"):
        if not (folder / "project/reports/tables.html").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            project = make_project(folder)
            run = snakemake(project, "reports/tables.html", python=warm_python)
            assert run.returncode == 0, run.stdout
    return folder / "project"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project with its files' times, to be edited freely."""
    target = tmp_path / "project"
    shutil.copytree(finished, target, symlinks=True)
    return target
