"""Cells that are computed from other cells: means, and the performance that is retained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lpsteps.report.aggregates import Estimate, mean, retained_performance, weighted_mean
from lpsteps.report.cells import Cell
from lpsteps.report.definitions import Column, Row
from lpsteps.report.formats import format_count, format_value
from lpsteps.report.row_evidence import RowEvidence


def derived_cell(
    behind: RowEvidence,
    row: Row,
    column: Column,
    model: str,
    n: int,
    built: Mapping[str, Cell],
    cells: Mapping[str, Cell],
) -> Cell:
    """Return the cell of a mean or of the retained performance.

    Args:
        behind: What stands behind the rows of the table.
        row: The row.
        column: The derived column.
        model: Id of the model.
        n: Number of removed layers.
        built: The row's other cells, by column.
        cells: The table's cells so far, by id; the dense row's are among them.
    """
    blank = behind.blank(row, column, model, n)
    problem = behind.problem(row, blank)
    if problem is not None:
        return replace(blank, reason=problem)
    names, problem = behind.covered(column, model)
    if problem is not None:
        return replace(blank, reason=problem)
    own = [built[name] for name in names]
    dense_row = behind.definition.dense_row
    if column.kind != "retained" or row.selection is None or dense_row is None:
        dense = []
    else:
        dense = [cells[behind.cell_id(model, 0, dense_row.id, name)] for name in names]
    parts = own + dense
    for part in parts:
        if part.status == "missing":
            return replace(blank, reason=f"rests on {part.id}, which is missing: {part.reason}")
    note = None
    if column.kind == "mean":
        estimate = mean([_estimate(part) for part in own])
    elif column.kind == "weighted_mean":
        totals = [_total(part) for part in own]
        estimate = weighted_mean([_estimate(part) for part in own], totals)
        note = f"weighted by {', '.join(format_count(total) for total in totals)} documents"
    elif row.selection is None:
        estimate = Estimate(100.0)
        note = "by definition"
    else:
        zero = next((part for part in dense if part.value == 0), None)
        if zero is not None:
            return replace(blank, reason=f"pruned / dense is not defined: {zero.id} is 0")
        estimate = retained_performance(
            [_estimate(part) for part in own], [_estimate(part) for part in dense]
        )
    return replace(
        blank,
        status="measured",
        value=estimate.value,
        text=format_value(estimate.value),
        stderr=estimate.stderr,
        limited=any(part.limited for part in parts),
        parts=[part.id for part in parts],
        benchmarks_used=len(names),
        benchmarks_wanted=len(column.of),
        note=note,
    )


def _estimate(cell: Cell) -> Estimate:
    assert isinstance(cell.value, float)
    return Estimate(cell.value, cell.stderr)


def _total(cell: Cell) -> int:
    assert cell.total is not None  # Only what is no score has none.
    return cell.total
