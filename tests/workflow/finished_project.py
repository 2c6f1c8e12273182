"""One finished run of the tiny project for all tests of a session, whichever worker needs it first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from project import make_project, snakemake


def finished_project(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the project after `snakemake reports/tables.html`; tests edit copies of it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "tiny"
    with FileLock(f"{folder}.lock"):
        if not (folder / "project/reports/tables.html").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            project = make_project(folder)
            run = snakemake(project, "reports/tables.html")
            assert run.returncode == 0, run.stdout
    return folder / "project"
