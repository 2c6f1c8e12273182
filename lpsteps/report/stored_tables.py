"""Reading ``tables.json`` back: it is whole and of this version, or one line says what is wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from lpsteps.artifacts import read_json
from lpsteps.errors import LpstepsError
from lpsteps.report.cells import Cell
from lpsteps.report.payload import SCHEMA

_KEYS: dict[str, type] = {
    "run": dict,
    "tables": list,
    "cells": list,
    "variants": dict,
    "scores": dict,
    "figures": list,
    "artifacts": dict,
}
_KINDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "text"}
_REMEDY = "delete it to rebuild it"


def read_tables(path: Path) -> dict[str, Any]:
    """Read a ``tables.json``.

    Args:
        path: The file.

    Raises:
        LpstepsError: It is missing or no JSON, is of another version, or a key is missing or of
            another kind.
    """
    tables = read_json(path)
    if tables.get("schema") != SCHEMA:
        found = tables.get("schema")
        raise LpstepsError(f"{path}: schema {found!r}, expected {SCHEMA}; {_REMEDY}")
    for key, kind in _KEYS.items():
        _require(path, key, tables.get(key), kind)
    _require(path, "run.profile", tables["run"].get("profile"), str)
    _require(path, "run.overrides", tables["run"].get("overrides"), dict)
    names = [field.name for field in fields(Cell)]
    for number, cell in enumerate(tables["cells"]):
        _require(path, f"cells.{number}", cell, dict)
        for name in names:
            if name not in cell:
                raise LpstepsError(f"{path}: cells.{number}.{name}: missing; {_REMEDY}")
    return tables


def _require(path: Path, key: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise LpstepsError(f"{path}: {key}: expected {_KINDS[kind]}; {_REMEDY}")
