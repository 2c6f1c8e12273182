"""Definitions that are one YAML file each: tables, figures, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from lpsteps import text_patterns
from lpsteps.errors import LpstepsError, first_line, nearest
from lpsteps.validation import validated


class FileDefinition(BaseModel):
    """Base of definitions that name themselves; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=text_patterns.DEFINITION_FILE)


Definition = TypeVar("Definition", bound=FileDefinition)


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, and no key twice, of which YAML would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping after a look at its keys."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            repeated = next(key for key, _ in node.value if keys.count(key.value) > 1)
            raise yaml.MarkedYAMLError(
                problem=f"the key {repeated.value!r} is there twice",
                problem_mark=[k for k, _ in node.value if k.value == repeated.value][-1].start_mark,
            )
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """Parse YAML of plain data, each key once.

    Raises:
        yaml.YAMLError: It is none.
    """
    # The loader is a safe one that is stricter still.
    return yaml.load(text, Loader=_StrictLoader)  # nosec B506


def read_yaml_file(path: Path) -> Any:
    """Read a YAML file of plain data.

    Raises:
        LpstepsError: The file is missing, is not YAML, or holds a key twice.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LpstepsError(f"{path}: cannot be read ({reason}); name a readable file") from error
    except RecursionError as error:
        raise LpstepsError(f"{path}: not valid YAML (nested too deeply); flatten it") from error
    except yaml.YAMLError as error:
        raise LpstepsError(f"{path}: not valid YAML ({_complaint(error)}); correct it") from error
    except ValueError as error:
        raise LpstepsError(
            f"{path}: not valid YAML (no such date, or a number with too many digits); correct it"
        ) from error


def _complaint(error: yaml.YAMLError) -> str:
    """Return what a YAML parser says and where, without the piece of the file that it quotes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return first_line(error)
    mark = error.problem_mark
    place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(filter(None, [error.context, error.problem])) + place


def list_definitions(folder: Path) -> list[str]:
    """Return the names of all definitions in a folder, sorted; editors hide files of their own."""
    return sorted(file.stem for file in folder.glob("[!.]*.yaml"))


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
