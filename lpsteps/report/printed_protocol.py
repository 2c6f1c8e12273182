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


def other_quantity(column: Column, scores: Iterable[Score], other_text: bool) -> str | None:
    """Return why a number and the printed one are not the same quantity, None if they are.

    Args:
        column: The column of both.
        scores: What the number is made from.
        other_text: Whether the row was cut and repaired by other calibration text than the paper's.
    """
    lengths = {
        score.settings.get("window_length", WINDOW_LENGTH)
        for score in scores
        if score.unit == "perplexity"
    }
    if lengths - {WINDOW_LENGTH}:
        found = " and ".join(format_count(length) for length in sorted(lengths))
        return f"on windows of {found} tokens, the paper's have {format_count(WINDOW_LENGTH)}"
    if other_text and (column.higher_is_better is not None or column.kind == "layers"):
        return "calibrated on other text than the paper's row"
    return None
