"""How much of a cut a repair undoes, how sure that is, and how two repairs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from lpsteps.evaluation.score import Score
from lpsteps.report.aggregates import Estimate, mean, share_closed
from lpsteps.report.bootstrap import (
    FEWEST_WINDOWS,
    Values,
    interval,
    resampled_means,
    shares_closed,
)

Scores = Sequence[Score]
Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Bounded:
    """A value with its 95 % interval; no bounds where the windows do not allow any."""

    value: float
    bounds: Bounds


@dataclass(frozen=True)
class Difference:
    """A repair minus another one: shares closed in points, and mean log-perplexities."""

    share: Bounded
    log_perplexity: Bounded


@dataclass(frozen=True)
class Share:
    """The share of the gap that a repair closes, in percent, and what sets it apart from others."""

    closed: Bounded
    differences: Mapping[str, Difference]


def obstacle(dense: Scores, pruned: Scores, repaired: Scores) -> str | None:
    """Say why there is no share of a gap to speak of, None when there is one.

    Args:
        dense: Perplexities of the dense model, one per corpus.
        pruned: Those of the model without repair on the same corpora.
        repaired: Those of the repaired model.
    """
    for whole, without, with_repair in zip(dense, pruned, repaired, strict=True):
        if len({score.samples.ids for score in (whole, without, with_repair)}) > 1:
            return f"{whole.benchmark}: the models were scored on different windows"
        if without.log_perplexity <= whole.log_perplexity:
            return f"{whole.benchmark}: the cut leaves no gap to close"
    return None


def measure_share(
    dense: Scores, pruned: Scores, repaired: Scores, others: Mapping[str, Scores]
) -> Share:
    """Measure the share closed by one repair, and its differences from others.

    All intervals come from the same resamples of the windows. There is none when a corpus has
    fewer than `FEWEST_WINDOWS` windows, or when the gap vanishes in some resample.

    Args:
        dense: Perplexities of the dense model, one per corpus.
        pruned: Those of the model without repair, worse on every corpus.
        repaired: Those of the repaired model.
        others: Those of other repaired models, by a name of the caller's; all on the same windows.
    """
    models = (dense, pruned, repaired, *others.values())
    intervals = _Intervals(None, ((None, None),) * len(others))
    if min(score.n for score in dense) >= FEWEST_WINDOWS:
        intervals = _intervals(tuple(tuple(one.samples.values for one in own) for own in models))
    closed = _share(dense, pruned, repaired)
    differences = {}
    for (name, scores), bounds in zip(others.items(), intervals.differences, strict=True):
        losses = _mean_log_perplexity(repaired) - _mean_log_perplexity(scores)
        differences[name] = Difference(
            share=Bounded(closed - _share(dense, pruned, scores), bounds[0]),
            log_perplexity=Bounded(losses, bounds[1]),
        )
    return Share(Bounded(closed, intervals.closed), differences)


class _Intervals(NamedTuple):
    """Bounds of a share closed, and of its differences from others and theirs of log-perplexity."""

    closed: Bounds
    differences: tuple[tuple[Bounds, Bounds], ...]


@lru_cache(maxsize=1024)
def _intervals(losses: tuple[tuple[tuple[float, ...], ...], ...]) -> _Intervals:
    """Resample the windows of the dense, the pruned, the repaired and the other models."""
    means = resampled_means(losses)
    own, *others = [shares_closed(means[0], means[1], model) for model in means[2:]]
    return _Intervals(
        _bounds(own),
        tuple(
            (
                _bounds(own - other if own is not None and other is not None else None),
                _bounds((means[2] - model).mean(axis=0)),
            )
            for other, model in zip(others, means[3:], strict=True)
        ),
    )


def _bounds(resampled: Values | None) -> Bounds:
    return None if resampled is None else interval(resampled)


def _share(dense: Scores, pruned: Scores, repaired: Scores) -> float:
    return share_closed(
        [score.log_perplexity for score in dense],
        [score.log_perplexity for score in pruned],
        [score.log_perplexity for score in repaired],
    )


def _mean_log_perplexity(scores: Scores) -> float:
    return mean([Estimate(score.log_perplexity) for score in scores]).value
