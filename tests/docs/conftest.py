"""The project in which the guides are followed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished_project import finished, warm_python
from guide_project import write_named_files
from project import snakemake

__all__ = ["finished", "warm_python"]


@pytest.fixture(scope="session")
def guide_project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished project with the tiny profile as its default, and its page up to date."""
    folder = tmp_path_factory.mktemp("guides") / "project"
    shutil.copytree(finished, folder, symlinks=True)
    write_named_files(folder)
    run = snakemake(folder, "reports/tables.html", profile="config/config.yaml")
    assert run.returncode == 0, run.stdout
    return folder


@pytest.fixture
def project(guide_project: Path, tmp_path: Path) -> Path:
    """A copy of that project, to be edited freely."""
    target = tmp_path / "project"
    shutil.copytree(guide_project, target, symlinks=True)
    return target
