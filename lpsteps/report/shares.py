"""How much of a cut a repair undoes, how sure that is, and how two repairs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bounded:
    """A value with its 95 % interval; no bounds where the windows do not allow any."""

    value: float
    bounds: tuple[float, float] | None


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
    means = resampled_means(
        [
            [score.samples.values for score in scores]
            for scores in (dense, pruned, repaired, *others.values())
        ]
    )
    resampled = [shares_closed(means[0], means[1], model) for model in means[2:]]
    varied = min(score.n for score in dense) >= FEWEST_WINDOWS
    closed, *shares = [_share(dense, pruned, scores) for scores in (repaired, *others.values())]
    differences = {}
    for index, (name, scores) in enumerate(others.items()):
        losses = _mean_log_perplexity(repaired) - _mean_log_perplexity(scores)
        of_losses = (means[2] - means[3 + index]).mean(axis=0)
        own, other = resampled[0], resampled[1 + index]
        of_shares = own - other if own is not None and other is not None else None
        differences[name] = Difference(
            share=_bounded(closed - shares[index], of_shares, varied),
            log_perplexity=_bounded(losses, of_losses, varied),
        )
    return Share(_bounded(closed, resampled[0], varied), differences)


def _bounded(value: float, resampled: Values | None, varied: bool) -> Bounded:
    return Bounded(value, interval(resampled) if resampled is not None and varied else None)


def _share(dense: Scores, pruned: Scores, repaired: Scores) -> float:
    return share_closed(
        [score.log_perplexity for score in dense],
        [score.log_perplexity for score in pruned],
        [score.log_perplexity for score in repaired],
    )


def _mean_log_perplexity(scores: Scores) -> float:
    return mean([Estimate(score.log_perplexity) for score in scores]).value
