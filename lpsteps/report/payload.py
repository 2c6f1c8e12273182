"""From evidence and table definitions to the content of ``tables.json``.

This payload is the product: the page and the CSV files are views of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lpsteps.errors import LpstepsError, nearest
from lpsteps.report.cells import Cell
from lpsteps.report.definitions import TableDefinition
from lpsteps.report.evidence import BuildSpec, Evidence
from lpsteps.report.published import PublishedCell, by_variant
from lpsteps.report.row_evidence import RowEvidence
from lpsteps.report.table_builder import TableBuilder
from lpsteps.report.verdicts import summarise

SCHEMA = 5


def build_payload(
    spec: BuildSpec,
    definitions: Sequence[TableDefinition],
    published: Iterable[PublishedCell],
    published_digests: Mapping[str, str],
    evidence: Evidence,
) -> dict[str, Any]:
    """Build the content of ``tables.json``.

    Args:
        spec: Settings of the step.
        definitions: The tables to build, in display order.
        published: Printed cells; those of other tables are ignored.
        published_digests: SHA-256 of each file of printed cells, by path.
        evidence: The measured inputs.

    Raises:
        LpstepsError: Two cells would get the same id, or a score has another unit than its column.
    """
    printed = list(published)
    index = by_variant(printed)
    cells: dict[str, Cell] = {}
    listed: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    tables = []
    for definition in definitions:
        _check_columns(definition, printed)
        builder = TableBuilder(
            RowEvidence(definition, spec, evidence),
            [cell for cell in printed if cell.table == definition.id],
            index,
            published_digests,
        )
        table = builder.build()
        own = [asdict(cell) for cell in builder.cells.values()]
        columns = {column.id for column in definition.columns if column.shown}
        of_page = [cell for cell in own if cell["column"] in columns]
        tables.append({**table, "summary": summarise(of_page)})
        listed += own
        shown += of_page
        cells.update(builder.cells)
    counts = Counter(cell["status"] for cell in shown)
    used = {cell.variant for cell in cells.values() if cell.variant is not None}
    return {
        "schema": SCHEMA,
        "run": {
            "profile": spec.profile,
            "overrides": spec.overrides,
            "models": [
                {"id": model, **facts.model_dump()} for model, facts in sorted(spec.models.items())
            ],
            "counts": {name: counts[name] for name in ("measured", "published", "missing")},
            "limits": _sample_limits(evidence),
            "summary": summarise(shown),
        },
        "tables": tables,
        "cells": listed,
        "variants": {folder: _describe_variant(folder, spec, evidence) for folder in sorted(used)},
        "scores": {
            score.path: score.content.model_dump(include={"metric", "protocol", "settings"})
            for _, score in sorted(evidence.scores.items())
        },
    }


def _check_columns(definition: TableDefinition, printed: Iterable[PublishedCell]) -> None:
    names = {column.id for column in definition.columns}
    for cell in printed:
        if cell.table == definition.id and cell.column not in names:
            where = f"{cell.path}: line {cell.line}"
            raise LpstepsError(f"{where}: column '{cell.column}': {nearest(cell.column, names)}")


def _sample_limits(evidence: Evidence) -> list[dict[str, Any]]:
    """List how many documents or windows each benchmark was scored on, once per distinct case."""
    cases = {
        (score.benchmark, score.protocol, score.n, score.total, score.limited)
        for score in (sourced.content for sourced in evidence.scores.values())
    }
    names = ("benchmark", "protocol", "n", "total", "limited")
    ordered = sorted(cases, key=lambda case: (case[0], case[2], case[3] or 0))
    return [dict(zip(names, case, strict=True)) for case in ordered]


def _describe_variant(folder: str, spec: BuildSpec, evidence: Evidence) -> dict[str, Any]:
    variant = spec.variants[folder]
    plan = evidence.plans.get((variant.model, variant.calibration, variant.selection, variant.n))
    patch = evidence.patches.get(folder)
    width = evidence.widths.get(folder)
    is_width = variant.selection in spec.widths
    is_cut = variant.n > 0 and not is_width
    return {
        "model": variant.model,
        "n": variant.n,
        "n_layers": spec.models[variant.model].n_layers,
        "calibration": variant.calibration if variant.n else None,
        "selection": variant.selection if is_cut else None,
        "recovery": variant.recovery if is_cut else None,
        "width": variant.selection if is_width else None,
        "width_manifest": width.path if width else None,
        "plan": plan.path if plan else None,
        "layers": list(plan.content.layers) if plan else [],
        "order": list(plan.content.order) if plan else [],
        "gaps": [list(gap) for gap in plan.content.gaps] if plan else [],
        "patch": patch.path if patch else None,
        "added_parameters": patch.content.parameters if patch else 0,
    }
