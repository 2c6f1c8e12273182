"""Intervals against a slow loop over windows, and against the truth of synthetic data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lpsteps.report import bootstrap
from lpsteps.report.bootstrap import draws, interval, resampled_means, shares_closed

GENERATOR = np.random.default_rng(5)
COUNTS = (6, 3)
# Dense, pruned and repaired losses on two corpora of six and three windows.
LOSSES = [
    [(GENERATOR.normal(3, 0.4, count) + shift).tolist() for count in COUNTS]
    for shift in (0.0, 1.0, 0.4)
]


def loop_over_resamples(resamples: int, seed: int) -> list[list[list[float]]]:
    """Means ``[model][corpus][resample]`` by listing the windows of every resample."""
    means: list[list[list[float]]] = []
    for model in LOSSES:
        of_model = []
        for corpus, losses in enumerate(model):
            of_corpus = []
            for times in draws(len(losses), corpus, resamples, seed):
                sample = [losses[i] for i, count in enumerate(times) for _ in range(count)]
                assert len(sample) == len(losses)
                of_corpus.append(math.fsum(sample) / len(sample))
            of_model.append(of_corpus)
        means.append(of_model)
    return means


def test_means_of_resamples_agree_with_a_slow_loop() -> None:
    expected = loop_over_resamples(200, 3)
    assert resampled_means(LOSSES, 200, 3) == pytest.approx(np.array(expected), rel=1e-13)


def test_interval_of_a_share_agrees_with_a_slow_loop() -> None:
    dense, pruned, repaired = loop_over_resamples(400, 0)
    shares = sorted(
        sum(100 * (pruned[c][r] - repaired[c][r]) / (pruned[c][r] - dense[c][r]) for c in range(2))
        / 2
        for r in range(400)
    )
    # Linear interpolation at 0.025 * 399 and 0.975 * 399.
    expected = (
        shares[9] + 0.975 * (shares[10] - shares[9]),
        shares[389] + 0.025 * (shares[390] - shares[389]),
    )
    means = resampled_means(LOSSES, 400, 0)
    values = shares_closed(means[0], means[1], means[2])
    assert values is not None
    assert interval(values) == pytest.approx(expected, abs=2e-6)


def test_draws_are_windows_with_replacement_the_same_on_each_call() -> None:
    bootstrap.draws.cache_clear()
    first = draws(7, 1, 4000, 0).copy()
    bootstrap.draws.cache_clear()
    again = draws(7, 1, 4000, 0)
    assert (first == again).all() and (first.sum(axis=1) == 7).all()
    assert first.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert first.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.08)
    assert (first != draws(7, 0, 4000, 0)).any()  # corpora vary independently
    assert (first != draws(7, 1, 4000, 1)).any()


def test_models_share_their_windows() -> None:
    """A model that is worse by the same amount on each window differs by it in each resample."""
    worse = [[loss + 0.25 for loss in losses] for losses in LOSSES[0]]
    means = resampled_means([LOSSES[0], worse], 500, 0)
    assert means[1] - means[0] == pytest.approx(np.full((2, 500), 0.25), rel=1e-12)
    assert means[0].std(axis=-1).min() > 0.01


def test_a_share_needs_a_gap_in_each_resample() -> None:
    means = resampled_means(LOSSES, 50, 0)
    assert shares_closed(means[0], means[1], means[1]) == pytest.approx(np.zeros(50))
    assert shares_closed(means[0], means[1], means[0]) == pytest.approx(np.full(50, 100))
    touching = means[1].copy()
    touching[1, 7] = means[0][1, 7]
    assert shares_closed(means[0], touching, means[2]) is None


def test_rounding_errors_of_equal_models_have_no_sign() -> None:
    """The number of threads changes them, and a page is verified with any number."""
    assert str(interval(np.full(100, -1e-17))) == str(interval(np.full(100, 1e-17)))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Paired windows: hardness is common, a repair closes 60 % on average, another one 55 %."""
    generator = np.random.default_rng(11)
    runs, count = 400, 60
    truths = {"share": 60, "difference": 5}
    covered = dict.fromkeys(truths, 0)
    for _ in range(runs):
        models: list[list[list[float]]] = [[], [], [], []]
        for _corpus in range(2):
            hardness = generator.normal(3, 0.5, count)
            gap = generator.gamma(16, 1 / 16, count)
            losses = (
                hardness,
                hardness + gap,
                hardness + gap * (1 - 0.60) + generator.normal(0, 0.05, count),
                hardness + gap * (1 - 0.55) + generator.normal(0, 0.05, count),
            )
            for model, values in zip(models, losses, strict=True):
                model.append(values.tolist())
        means = resampled_means(models, 2000, 0)
        one = shares_closed(means[0], means[1], means[2])
        two = shares_closed(means[0], means[1], means[3])
        assert one is not None and two is not None
        for kind, values in (("share", one), ("difference", one - two)):
            low, high = interval(values)
            covered[kind] += low <= truths[kind] <= high
    assert all(0.91 <= times / runs <= 0.98 for times in covered.values()), covered
