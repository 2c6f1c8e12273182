"""Cells that show what one file says, or a fact of the model: no other cell is needed."""

from __future__ import annotations

from dataclasses import replace

from lpsteps import paths
from lpsteps.errors import LpstepsError
from lpsteps.report.cells import Cell, Source
from lpsteps.report.cost_cells import DISTILLED, cost_cell, distilled_cell
from lpsteps.report.definitions import MODEL_FACTS, OVERHEADS, Column, Row
from lpsteps.report.formats import format_layers, format_value
from lpsteps.report.model_facts import model_fact
from lpsteps.report.overheads import overhead_fact
from lpsteps.report.ratio_cells import ratio_cell
from lpsteps.report.row_evidence import RowEvidence


def measured_cell(behind: RowEvidence, row: Row, column: Column, model: str, n: int) -> Cell:
    """Return the cell of a column that is not derived from other cells.

    Raises:
        LpstepsError: A score has another unit than the column.
    """
    blank = behind.blank(row, column, model, n)
    problem = behind.problem(row, blank)
    if problem is not None:
        return replace(blank, reason=problem)
    if row.selection in behind.spec.widths and column.kind not in ("benchmark", "ratio"):
        return replace(blank, reason="removes heads and channels: there is no cut to repair")
    if column.kind == "layers":
        return _layers_cell(behind, blank, row)
    if column.kind in MODEL_FACTS:
        return _model_cell(behind, blank, column)
    if column.kind in OVERHEADS:
        return _overhead_cell(behind, blank, row, column)
    if blank.variant is None:
        return replace(blank, reason="this profile does not build the variant")
    if column.kind == "benchmark":
        return _score_cell(behind, blank, column, blank.variant)
    if column.kind == "ratio":
        return ratio_cell(behind, blank, row, blank.variant)
    facts = behind.distillation(row)
    if column.kind in ("top_k", "target_storage") and facts and facts.why_no_outcomes:
        return replace(blank, reason=facts.why_no_outcomes)
    if column.kind == "top_k" and facts is None:
        return replace(blank, reason="nothing is distilled")
    if facts and column.kind in DISTILLED:
        return distilled_cell(behind, blank, row, column, facts)
    return cost_cell(behind, blank, row, column, blank.variant)


def _score_cell(behind: RowEvidence, blank: Cell, column: Column, variant: str) -> Cell:
    problem = behind.evidence.problems.get(paths.score(variant, column.id))
    if problem is not None:
        return replace(blank, reason=problem)
    sourced = behind.evidence.scores.get((variant, column.id))
    if sourced is None:
        return replace(blank, reason=behind.why_not_scored(column.id))
    score = sourced.content
    if score.unit != column.unit:
        raise LpstepsError(
            f"{sourced.path}: unit: '{score.unit}': column '{column.id}' of "
            f"{behind.definition.id} is in {column.unit}"
        )
    return replace(
        blank,
        status="measured",
        value=score.value,
        text=format_value(score.value),
        stderr=score.stderr,
        n=score.n,
        total=score.total,
        limited=score.limited,
        source=Source(sourced.path, "/value", sourced.sha256),
    )


def _layers_cell(behind: RowEvidence, blank: Cell, row: Row) -> Cell:
    plan = behind.plan(row, blank.model, blank.n_pruned)
    if plan is None:
        return replace(blank, reason="there is no plan file")
    return replace(
        blank,
        status="measured",
        value=list(plan.content.order),
        text=format_layers(plan.content.order),
        source=Source(plan.path, "/order", plan.sha256),
    )


def _model_cell(behind: RowEvidence, blank: Cell, column: Column) -> Cell:
    fact = model_fact(column.kind, behind.spec.models[blank.model])
    if fact is None:
        return replace(blank, reason="a folder has no revision")
    return replace(
        blank, status="measured", value=fact.value, text=fact.text, note=fact.note or None
    )


def _overhead_cell(behind: RowEvidence, blank: Cell, row: Row, column: Column) -> Cell:
    problem = behind.evidence.problems.get(paths.overheads(blank.model))
    sourced = behind.evidence.overheads.get(blank.model)
    if problem is not None or sourced is None:
        return replace(blank, reason=problem or "there is no file of costs")
    fact = overhead_fact(column.kind, row.overhead or "", sourced.content)
    if isinstance(fact, str):
        return replace(blank, reason=fact)
    return replace(
        blank,
        status="measured",
        value=fact.value,
        text=fact.text,
        source=Source(sourced.path, fact.pointer, sourced.sha256),
        note=fact.note,
    )
