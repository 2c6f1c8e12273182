"""Where a number is another quantity than the printed one beside it: how the paper measures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lpsteps.report.formats import format_count

if TYPE_CHECKING:
    from lpsteps.evaluation.score import Score
    from lpsteps.report.definitions import Column

# Tokens of each window, of running text and of calibration text (arXiv 2505.24680, section 4.1).
WINDOW_LENGTH = 2048


def other_windows(*lengths: int) -> str | None:
    """Return how windows of these lengths differ from the paper's, None if they do not."""
    if {*lengths} <= {WINDOW_LENGTH}:
        return None
    found = " and ".join(format_count(length) for length in sorted({*lengths}))
    return f"windows of {found} tokens, the paper's have {format_count(WINDOW_LENGTH)}"


def other_quantity(column: Column, scores: Iterable[Score], other_text: str | None) -> str | None:
    """Return why a number and the printed one are not the same quantity, None if they are.

    Args:
        column: The column of both.
        scores: What the number is made from.
        other_text: By which other calibration text than the paper's the row was cut and repaired,
            None if by the same.
    """
    windows = other_windows(
        *(
            score.settings.get("window_length", WINDOW_LENGTH)
            for score in scores
            if score.unit == "perplexity"
        )
    )
    if windows is not None:
        return f"on {windows}"
    if other_text is not None and (column.higher_is_better is not None or column.kind == "layers"):
        return f"calibrated on {other_text}"
    return None
