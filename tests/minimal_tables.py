"""The smallest content of ``tables.json`` that is one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lpsteps.report.cells import Cell
from lpsteps.report.payload import SCHEMA


def minimal_tables(
    profile: str = "config/config.yaml", cells: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return tables without a table.

    Args:
        profile: The profile that they are of.
        cells: Ids of their cells, all without a number.
    """
    facts = {"table": "t", "row": "r", "column": "c", "model": "m", "n_pruned": 0}
    return {
        "schema": SCHEMA,
        "run": {"profile": profile, "overrides": {}, "models": [], "limits": []},
        "tables": [],
        "cells": [asdict(Cell(id=name, status="missing", reason="no", **facts)) for name in cells],
        "variants": {},
        "scores": {},
        "figures": [],
        "artifacts": {},
    }
