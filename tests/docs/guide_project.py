"""The project in which the guides are followed: the tiny one, with the guides' file names."""

from __future__ import annotations

from pathlib import Path

import yaml
from project import CHECKOUT, PROFILE, definitions, write_yaml


def write_named_files(project: Path) -> None:
    """Put the tiny project's definitions and profile into the files that the guides name."""
    parts = definitions()
    archives = yaml.safe_load((CHECKOUT / "config/data.yaml").read_text())["archives"]
    write_yaml(project / "config/models.yaml", {"models": parts.pop("models")})
    write_yaml(project / "config/data.yaml", {**parts, "archives": archives})
    content = yaml.safe_load((project / PROFILE).read_text())
    files = ["config/models.yaml", "config/data.yaml", "config/methods.yaml"]
    write_yaml(project / "config/config.yaml", {**content, "definitions": files})
