"""The printed value beside a measured one: its difference and the verdict on it."""

from __future__ import annotations

from dataclasses import replace

from lpsteps.report.cells import Cell
from lpsteps.report.definitions import Column
from lpsteps.report.formats import format_layers
from lpsteps.report.overheads import UNJUDGED
from lpsteps.report.published import PublishedCell
from lpsteps.report.training_amount import TrainingAmount
from lpsteps.report.verdicts import judge, judge_layers


def beside_published(
    cell: Cell,
    column: Column,
    printed: PublishedCell | None,
    trained: TrainingAmount | None,
    other_quantity: str | None,
) -> Cell:
    """Put the printed value, and where comparable the difference and a verdict, into a cell.

    Args:
        cell: The measured or missing cell.
        column: Its column.
        printed: The printed cell of the same configuration, if any.
        trained: On which and how much text the row was distilled, None if it was not.
        other_quantity: Why the number is another quantity than the printed one, None if it is not.
    """
    if trained is not None:
        otherwise = "" if printed is None else trained.beside_printed
        note = "; ".join(filter(None, [cell.note, trained.note, otherwise]))
        cell = replace(cell, note=note)
    if printed is None:
        return cell
    layers = printed.layers
    beside = replace(
        cell,
        published=list(layers) if layers is not None else printed.words or printed.value,
        published_text=format_layers(layers) if layers is not None else printed.text,
        published_note=printed.note or None,
    )
    if cell.status != "measured":
        return beside
    if other_quantity is not None:
        return replace(beside, unjudged=other_quantity)
    if layers is not None and isinstance(cell.value, list):
        difference = len(set(cell.value) - set(layers))
        return replace(beside, difference=difference, verdict=judge_layers(cell.value, layers))
    if not isinstance(cell.value, float):
        return replace(beside, unjudged="a fact of the run or of the model, not a result")
    if printed.value is None:
        return replace(beside, unjudged="the paper prints no number")
    if column.kind in UNJUDGED:
        return replace(beside, unjudged=UNJUDGED[column.kind])
    # A mean over fewer benchmarks than the printed one is another quantity, and so is what
    # training on other text, or on more or less of it, gives.
    if cell.benchmarks_used != cell.benchmarks_wanted:
        return replace(beside, unjudged="over fewer benchmarks than the printed value")
    if trained is not None and trained.otherwise is not None:
        return replace(beside, unjudged=trained.otherwise)
    beside = replace(beside, difference=cell.value - printed.value)
    if cell.n_pruned == 0 and column.kind in ("ratio", "retained"):
        return replace(beside, unjudged="holds by definition")
    verdict, stderr = judge(
        column, cell.value, cell.stderr, cell.n, cell.limited, printed.value, printed.text
    )
    if verdict is None:
        return replace(beside, unjudged="its standard error is not known")
    return replace(beside, verdict=verdict, difference_stderr=stderr)
