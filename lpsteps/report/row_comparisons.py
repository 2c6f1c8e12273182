"""How the rows of a section differ: the marks of the best, and tests beside other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lpsteps.report.cells import Cell, Versus
from lpsteps.report.definitions import NO_RECOVERY, Column, Row
from lpsteps.report.row_evidence import RowEvidence
from lpsteps.report.significance import Entry, Finding, compare_column, describe

# Columns whose rows are compared with each other on the documents and windows behind them.
_COMPARED = ("benchmark", "mean", "weighted_mean", "retained")


def mark_best(
    behind: RowEvidence, cells: dict[str, Cell], rows: Sequence[Row], model: str, n: int
) -> None:
    """Mark the best and the second number of each column of a section.

    Args:
        behind: What stands behind the rows of the table.
        cells: The table's cells by id; those with a mark are replaced.
        rows: The rows of the section.
        model: Id of the model.
        n: Number of removed layers.
    """
    # A row that keeps some of the layers is smaller by fewer layers than the others.
    rows = [row for row in rows if behind.kept(row, model, n) is None]
    for column in behind.definition.columns:
        if column.higher_is_better is None:
            continue
        values = {}
        for row in rows:
            cell = cells[behind.cell_id(model, n, row.id, column.id)]
            if cell.status == "measured" and isinstance(cell.value, float):
                values[cell.id] = cell.value
        ranked = sorted(set(values.values()), reverse=column.higher_is_better is True)
        if len(values) < 3:
            continue  # Of two rows both would carry a mark, which says nothing.
        for name, value in values.items():
            if value == ranked[0]:
                cells[name] = replace(cells[name], mark="best")
            elif value == ranked[1]:
                cells[name] = replace(cells[name], mark="second")


def compare_rows(
    behind: RowEvidence, cells: dict[str, Cell], rows: Sequence[Row], model: str, n: int
) -> None:
    """Put into each number of a section how it differs from the best one, and from no repair.

    Args:
        behind: What stands behind the rows of the table.
        cells: The table's cells by id; those that are compared are replaced.
        rows: The rows of the section.
        model: Id of the model.
        n: Number of removed layers.
    """
    contenders = [row.id for row in rows if behind.kept(row, model, n) is None]
    bare: dict[tuple[int, ...] | None, str] = {}
    for row in rows:
        layers = behind.removed(row, model, n)
        if row.recovery == NO_RECOVERY and layers is not None:
            bare.setdefault(layers, row.id)
    unrepaired = {
        row.id: bare[layers]
        for row in rows
        if row.recovery != NO_RECOVERY and (layers := behind.removed(row, model, n)) in bare
    }
    twins = {row.id: twin.id for row in rows if (twin := behind.twin(row, rows, model, n))}
    for column in behind.definition.columns:
        if column.kind not in _COMPARED or not column.shown:
            continue
        entries = {
            row.id: entry
            for row in rows
            if (entry := _entry(behind, cells, behind.cell_id(model, n, row.id, column.id), column))
        }
        best, repair = compare_column(
            entries, contenders, unrepaired, twins, column.higher_is_better is True
        )
        for row in rows:
            name = behind.cell_id(model, n, row.id, column.id)
            cells[name] = replace(
                cells[name],
                versus_best=_versus(behind, best.get(row.id), row, column, model, n),
                versus_unrepaired=_versus(behind, repair.get(row.id), row, column, model, n),
            )


def _entry(
    behind: RowEvidence, cells: Mapping[str, Cell], name: str, column: Column
) -> Entry | None:
    """Return what stands behind a number, None if the cell is missing."""
    cell = cells[name]
    if not isinstance(cell.value, float):
        return None
    scores = []
    for part in [cells[part] for part in cell.parts] or [cell]:
        assert part.variant is not None  # Or it would be missing.
        scores.append(behind.evidence.scores[part.variant, part.column].content)
    own, dense = scores[: cell.benchmarks_used or 1], scores[cell.benchmarks_used or 1 :]
    weights = [1 if column.kind != "weighted_mean" else score.total for score in own]
    return Entry(cell.value, tuple(own), tuple(weights), tuple(dense))


def _versus(
    behind: RowEvidence, finding: Finding | None, row: Row, column: Column, model: str, n: int
) -> Versus | None:
    if finding is None:
        return None
    return Versus(
        cell=behind.cell_id(model, n, finding.other, column.id),
        label=behind.label_beside(finding.other, row),
        difference=finding.difference,
        interval=list(finding.bounds),
        p=finding.p,
        adjusted=finding.adjusted,
        family=finding.family,
        test=finding.test,
        told_apart=finding.told_apart,
        text=describe(finding),
    )
