"""The arithmetic of the derived columns. All values are exact floats; rounding is for display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error in the same unit; None when the error is not known."""

    value: float
    stderr: float | None = None


def mean(parts: Sequence[Estimate]) -> Estimate:
    """Return the plain mean; its standard error takes the parts as independent.

    Args:
        parts: At least one estimate.

    Returns:
        ``sum(v) / k`` and ``sqrt(sum(e^2)) / k``.
    """
    count = len(parts)
    return Estimate(
        math.fsum(part.value for part in parts) / count,
        _root_sum_of_squares([part.stderr for part in parts], count),
    )


def weighted_mean(parts: Sequence[Estimate], weights: Sequence[int]) -> Estimate:
    """Return the weighted mean; its standard error takes the parts as independent.

    With the numbers of questions as weights, this is the accuracy over all questions of several
    subjects (the weighted average of Table 17 of arXiv 2505.24680).

    Args:
        parts: At least one estimate.
        weights: One positive weight per part.

    Returns:
        ``sum(w v) / sum(w)`` and ``sqrt(sum((w e)^2)) / sum(w)``.
    """
    total = sum(weights)
    errors = [
        None if part.stderr is None else weight * part.stderr
        for part, weight in zip(parts, weights, strict=True)
    ]
    return Estimate(
        math.fsum(weight * part.value for part, weight in zip(parts, weights, strict=True)) / total,
        _root_sum_of_squares(errors, total),
    )


def retained_performance(pruned: Sequence[Estimate], dense: Sequence[Estimate]) -> Estimate:
    """Return the mean over tasks of pruned / dense, in percent (column RP of the paper).

    This is not the ratio of the two averages: the printed RP values follow the mean of the ratios.

    Args:
        pruned: Scores of the pruned model, one per task.
        dense: Scores of the dense model for the same tasks, none of them 0.

    Returns:
        The value, and its standard error to first order with all scores taken as independent.
        Pruned and dense are scored on the same documents, which usually correlates them
        positively, so this error is on the large side.
    """
    ratios = []
    for after, before in zip(pruned, dense, strict=True):
        ratio = 100 * after.value / before.value
        error = None
        if after.stderr is not None and before.stderr is not None:
            error = math.hypot(
                100 * after.stderr / before.value, ratio * before.stderr / before.value
            )
        ratios.append(Estimate(ratio, error))
    return mean(ratios)


def share_closed(
    dense: Sequence[float], pruned: Sequence[float], repaired: Sequence[float]
) -> float:
    """Return the share of the gap between two models that a repair closes, in percent.

    The gap of a corpus is that between the log-perplexities, which are the mean losses. 0 is the
    pruned model, 100 the dense one; a repair that makes things worse is below 0.

    Args:
        dense: Log-perplexity of the dense model on each corpus.
        pruned: Those of the pruned model without repair, each larger.
        repaired: Those of the repaired model.

    Returns:
        The mean over the corpora of each corpus's share.
    """
    shares = [
        100 * (without - with_repair) / (without - whole)
        for whole, without, with_repair in zip(dense, pruned, repaired, strict=True)
    ]
    return math.fsum(shares) / len(shares)


def removed_ratio(n: int, layer_parameters: int, added_parameters: int, parameters: int) -> float:
    """Return the share of parameters removed, in percent.

    Args:
        n: Removed layers.
        layer_parameters: Parameters of one layer.
        added_parameters: Parameters that the patches put in.
        parameters: Parameters of the dense model.
    """
    return 100 * (n * layer_parameters - added_parameters) / parameters


def _root_sum_of_squares(errors: Sequence[float | None], count: int) -> float | None:
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / count if len(known) == len(errors) else None
