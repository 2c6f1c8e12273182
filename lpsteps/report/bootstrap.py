"""Paired confidence intervals by resampling the windows of running text.

A resample draws, within each corpus, as many windows with replacement as there are. All models are
scored on the same windows, so a resample takes the same windows of each of them: what makes a
window hard moves all models alike and cancels in a comparison (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13: percentile intervals).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

# The smallest p-value is twice one in so many: small enough to tell 33 rows apart from the best of
# them, which are 528 pairs.
RESAMPLES = 25_000
SEED = 0
LEVEL = 0.95

# With fewer windows, resampling them says too little about other windows: a test by the signs of
# five differences cannot reach the level of 5 % at all.
FEWEST_WINDOWS = 6

# Bounds are kept to this many decimals. A resampled bound means far fewer digits, and the last ones
# of a sum depend on the processor: the tables are to be the same bytes everywhere.
DECIMALS = 6

Values = npt.NDArray[np.float64]


@lru_cache(maxsize=8)
def draws(windows: int, corpus: int, resamples: int, seed: int) -> npt.NDArray[np.int32]:
    """Return how often each resample takes each window.

    Args:
        windows: Windows of the corpus.
        corpus: Number of the corpus; another one has other draws.
        resamples: Number of resamples.
        seed: Seed of all draws.

    Returns:
        Counts ``[resamples, windows]``, read-only, each row adding up to ``windows``.
    """
    generator = np.random.default_rng([seed, corpus])
    shares = np.full(windows, 1 / windows)
    counts = generator.multinomial(windows, shares, size=resamples).astype(np.int32)
    counts.setflags(write=False)
    return counts


def resampled_means(
    losses: Sequence[Sequence[Sequence[float]]], resamples: int = RESAMPLES, seed: int = SEED
) -> Values:
    """Return the mean losses of all models on each resample.

    Args:
        losses: Per model, per corpus, the mean loss of each window in nats; the models have the
            same windows in the same order.
        resamples: Number of resamples.
        seed: Seed of the draws. Another call with this seed and windows draws the same ones.

    Returns:
        Float64 ``[models, corpora, resamples]``.
    """
    means = np.empty((len(losses), len(losses[0]), resamples))
    for corpus in range(len(losses[0])):
        values = np.array([model[corpus] for model in losses], dtype=np.float64)
        counts = draws(values.shape[1], corpus, resamples, seed)
        means[:, corpus] = values @ counts.T / values.shape[1]
    return means


def shares_closed(dense: Values, pruned: Values, repaired: Values) -> Values | None:
    """Return the share of the gap that a repair closes on each resample, in percent.

    Args:
        dense: Mean losses of the dense model, ``[corpora, resamples]``.
        pruned: Those of the pruned model.
        repaired: Those of the repaired model.

    Returns:
        Mean over the corpora, ``[resamples]``; None when some resample of a corpus has no gap to
        close, because a share of it would mean nothing.
    """
    gaps = pruned - dense
    if (gaps <= 0).any():
        return None
    shares: Values = 100 * ((pruned - repaired) / gaps).mean(axis=0)
    return shares


def interval(values: Values, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the percentile interval of a resampled quantity, None where a bound is infinite.

    Args:
        values: One value per resample, possibly infinite.
        level: Share of the resamples that lie within.
    """
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(values, [tail, 1 - tail])
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    # What is rounded to zero keeps its sign, which adding zero takes away.
    return round(float(low), DECIMALS) + 0.0, round(float(high), DECIMALS) + 0.0
