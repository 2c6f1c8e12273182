"""The project in which the guides are followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_project import copy, finished
from guide_project import write_named_files

__all__ = ["copy", "finished", "project"]


@pytest.fixture
def project(copy: Path) -> Path:
    """A copy of the finished project whose default profile is the tiny one."""
    write_named_files(copy)
    return copy
