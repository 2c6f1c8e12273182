"""Cells of the share that a repair closes of the gap between the dense and the pruned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lpsteps.evaluation.score import Score
from lpsteps.report.bootstrap import RESAMPLES
from lpsteps.report.cells import Cell, Comparison, Contrast
from lpsteps.report.definitions import Column, Row
from lpsteps.report.formats import format_interval, format_share
from lpsteps.report.measured_cells import measured_cell
from lpsteps.report.row_evidence import RowEvidence
from lpsteps.report.shares import Bounded, Share, measure_share, obstacle


def share_cell(behind: RowEvidence, row: Row, column: Column, model: str, n: int) -> Cell:
    """Return the cell of a share closed, with its interval and the rows that it is compared with.

    Raises:
        LpstepsError: A score has another unit than its column.
    """
    blank = behind.blank(row, column, model, n)
    problem = behind.problem(row, blank)
    names, uncovered = behind.covered(column, model)
    if problem or uncovered:
        return replace(blank, reason=problem or uncovered)
    dense, pruned = behind.definition.ends
    involved = [row] if row in (dense, pruned) else [row, pruned, dense]
    found = []
    for each in involved:
        scores, problem = _perplexities(behind, each, names, model, n)
        if problem is not None:
            return replace(blank, reason=problem)
        found.append(scores)
    cell = replace(
        blank,
        status="measured",
        limited=any(score.limited for scores in found for score in scores),
        parts=[
            behind.cell_id(model, n if each.selection else 0, each.id, name)
            for each in involved
            for name in names
        ],
        benchmarks_used=len(names),
        benchmarks_wanted=len(column.of),
    )
    if len(involved) == 1:
        value = 100.0 if row is dense else 0.0
        return replace(cell, value=value, text=format_share(value), note="by definition")
    own, without, whole = found
    problem = obstacle(whole, without, own)
    if problem is not None:
        return replace(blank, reason=problem)
    others = {}
    for name in column.against:
        scores, problem = _perplexities(behind, behind.definition.row(name), names, model, n)
        if name != row.id and problem is None and obstacle(whole, without, scores) is None:
            others[name] = scores
    share = measure_share(whole, without, own, others)
    cell = _with_share(cell, share)
    comparisons = [
        Comparison(
            cell=behind.cell_id(model, n, name, column.id),
            label=behind.label_beside(name, row),
            share=_contrast(difference.share, decimals=1),
            log_perplexity=_contrast(difference.log_perplexity, decimals=3),
        )
        for name, difference in share.differences.items()
    ]
    windows = ", ".join(str(score.n) for score in own)
    note = (
        f"{pruned.label} is 0, {dense.label} is 100 %; {windows} windows, "
        f"resampled {RESAMPLES} times"
    )
    return replace(cell, comparisons=comparisons, note=note)


def _perplexities(
    behind: RowEvidence, row: Row, names: Sequence[str], model: str, n: int
) -> tuple[list[Score], str | None]:
    """Return the scores of a row, or why one of them is missing."""
    scores = []
    for name in names:
        column = behind.definition.column(name)
        cell = measured_cell(behind, row, column, model, n if row.selection else 0)
        if cell.variant is None or cell.status == "missing":
            return [], f"rests on {cell.id}, which is missing: {cell.reason}"
        scores.append(behind.evidence.scores[cell.variant, name].content)
    return scores, None


def _with_share(cell: Cell, share: Share) -> Cell:
    value, bounds = share.closed.value, share.closed.bounds
    cell = replace(cell, value=value, text=format_share(value))
    if bounds is None:
        return cell
    return replace(cell, interval=list(bounds), interval_text=format_interval(bounds))


def _contrast(difference: Bounded, decimals: int) -> Contrast:
    text = f"{difference.value:+.{decimals}f}"
    if difference.bounds is not None:
        text += f" {format_interval(difference.bounds, decimals)}"
    return Contrast(
        value=difference.value,
        interval=list(difference.bounds) if difference.bounds is not None else None,
        text=text,
    )
