"""The project in which the guides are followed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from finished_project import copy, finished
from project import CHECKOUT, PROFILE, definitions, write_yaml

__all__ = ["copy", "finished", "project"]


def write_named_files(project: Path) -> None:
    """Put the tiny project's definitions into the files that the guides name."""
    parts = definitions()
    archives = yaml.safe_load((CHECKOUT / "config/data.yaml").read_text())["archives"]
    write_yaml(project / "config/models.yaml", {"models": parts.pop("models")})
    write_yaml(project / "config/data.yaml", {**parts, "archives": archives})
    content = yaml.safe_load((project / PROFILE).read_text())
    files = ["config/models.yaml", "config/data.yaml", "config/methods.yaml"]
    write_yaml(project / "config/config.yaml", {**content, "definitions": files})


@pytest.fixture
def project(copy: Path) -> Path:
    """A copy of the finished project whose default profile is the tiny one."""
    write_named_files(copy)
    return copy
