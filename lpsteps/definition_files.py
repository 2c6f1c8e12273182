"""Definitions that are one YAML file each: tables, figures, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError, nearest
from lpsteps.validation import validated


class FileDefinition(BaseModel):
    """Base of definitions that name themselves; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9-]+$")


Definition = TypeVar("Definition", bound=FileDefinition)


def read_yaml_file(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        LpstepsError: The file is missing or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LpstepsError(f"{path}: cannot be read ({reason})") from error
    except yaml.YAMLError as error:
        raise LpstepsError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def list_definitions(folder: Path) -> list[str]:
    """Return the names of all definitions in a folder, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def definition_path(kind: str, name: str, folder: Path) -> Path:
    """Return the file of a definition.

    Args:
        kind: What it defines, for the message.
        name: Its name.
        folder: Where the definitions of this kind are.

    Raises:
        LpstepsError: There is no such file; the message has the nearest name.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise LpstepsError(f"{path}: no such {kind}: {nearest(name, list_definitions(folder))}")
    return path


def read_definition(path: Path, model: type[Definition]) -> Definition:
    """Read a definition that holds its own name as ``id``.

    Raises:
        LpstepsError: The file is missing, is not YAML, defines nothing valid, or has another name
            than its ``id``; the message names the file and the key.
    """
    definition = validated(model, read_yaml_file(path), str(path))
    if definition.id != path.stem:
        raise LpstepsError(f"{path}: id: '{definition.id}': must be the file's name, '{path.stem}'")
    return definition
