"""The finished tiny project, and a copy of it in which inputs are broken one at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished_project import finished, warm_python

__all__ = ["finished", "project", "warm_python"]


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project for one file of tests."""
    target = tmp_path_factory.mktemp("faults") / "project"
    shutil.copytree(finished, target, symlinks=True)
    return target
