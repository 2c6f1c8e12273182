from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.report.aggregates import (
    Estimate,
    mean,
    removed_ratio,
    retained_performance,
    share_closed,
    weighted_mean,
)

VALUES = st.floats(1, 100)
ERRORS = st.floats(0, 20)
ESTIMATES = st.lists(st.builds(Estimate, VALUES, ERRORS), min_size=1, max_size=9)


@given(ESTIMATES)
def test_mean_agrees_with_exact_arithmetic(parts: list[Estimate]) -> None:
    result = mean(parts)
    exact = sum(Fraction(part.value) for part in parts) / len(parts)
    variance = sum(Fraction(part.stderr or 0) ** 2 for part in parts) / len(parts) ** 2
    assert result.value == pytest.approx(float(exact), rel=1e-14)
    assert result.stderr == pytest.approx(math.sqrt(variance), rel=1e-12, abs=1e-150)


@given(st.lists(st.tuples(st.builds(Estimate, VALUES, ERRORS), st.integers(1, 5000)), min_size=1))
def test_weighted_mean_agrees_with_exact_arithmetic(parts: list[tuple[Estimate, int]]) -> None:
    result = weighted_mean([part for part, _ in parts], [weight for _, weight in parts])
    total = sum(weight for _, weight in parts)
    exact = sum(weight * Fraction(part.value) for part, weight in parts) / total
    variance = sum((weight * Fraction(part.stderr or 0)) ** 2 for part, weight in parts) / total**2
    assert result.value == pytest.approx(float(exact), rel=1e-13)
    assert result.stderr == pytest.approx(math.sqrt(variance), rel=1e-12, abs=1e-150)


def test_a_weighted_mean_is_the_accuracy_over_all_documents() -> None:
    """Three of four right, and one of two."""
    assert weighted_mean([Estimate(75.0), Estimate(50.0)], [4, 2]).value == pytest.approx(400 / 6)


def test_one_unknown_error_makes_the_error_unknown() -> None:
    assert weighted_mean([Estimate(1.0, 0.5), Estimate(2.0)], [1, 2]).stderr is None
    assert mean([Estimate(1.0, 0.5), Estimate(2.0)]).stderr is None
    assert retained_performance([Estimate(1.0, 0.5)], [Estimate(2.0)]).stderr is None


@given(ESTIMATES)
def test_a_model_retains_all_of_itself(scores: list[Estimate]) -> None:
    assert retained_performance(scores, scores).value == pytest.approx(100, rel=1e-14)


def test_printed_row_of_the_paper() -> None:
    """LLaMA-2-7B, 7 of 32 layers, LinearPatch, Table 1: RP 88.88, Avg 62.42."""
    pruned = [37.63, 61.24, 62.14, 63.49, 70.46, 65.90, 79.49, 36.46, 85.00]
    dense = [46.25, 74.58, 77.74, 75.97, 79.11, 68.98, 80.59, 39.62, 87.00]
    result = retained_performance([Estimate(v) for v in pruned], [Estimate(v) for v in dense])
    assert round(result.value, 2) == 88.88
    assert round(mean([Estimate(v) for v in pruned]).value, 2) == 62.42


def test_error_of_retained_performance_agrees_with_simulation() -> None:
    pruned = [Estimate(40.0, 1.0), Estimate(60.0, 2.0), Estimate(70.0, 0.5)]
    dense = [Estimate(50.0, 1.2), Estimate(75.0, 1.0), Estimate(80.0, 0.7)]
    generator = random.Random(7)
    draws = []
    for _ in range(20_000):
        ratios = [
            generator.gauss(a.value, a.stderr or 0) / generator.gauss(b.value, b.stderr or 0)
            for a, b in zip(pruned, dense, strict=True)
        ]
        draws.append(100 * sum(ratios) / 3)
    centre = sum(draws) / len(draws)
    spread = math.sqrt(sum((draw - centre) ** 2 for draw in draws) / (len(draws) - 1))
    assert retained_performance(pruned, dense).stderr == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize(
    ("n", "layer", "hidden", "total", "without", "with_patch"),
    [
        (7, 202_383_360, 4096, 6_738_415_616, 21.02, 20.78),  # LLaMA-2-7B
        (10, 317_204_480, 5120, 13_015_864_320, 24.37, 24.17),  # LLaMA-2-13B
        (7, 218_112_000, 4096, 8_030_261_248, 19.01, 18.80),  # LLaMA-3-8B
        (5, 218_112_000, 4096, 8_030_261_248, 13.58, 13.37),
    ],
)
def test_printed_ratios(
    n: int, layer: int, hidden: int, total: int, without: float, with_patch: float
) -> None:
    assert round(removed_ratio(n, layer, 0, total), 2) == without
    assert round(removed_ratio(n, layer, hidden**2, total), 2) == with_patch


LOSSES = st.tuples(st.floats(1, 5), st.floats(0.1, 5), st.floats(-3, 5))


@given(st.lists(LOSSES, min_size=1, max_size=6))
def test_share_closed_agrees_with_exact_arithmetic(
    corpora: list[tuple[float, float, float]],
) -> None:
    dense = [whole for whole, _, _ in corpora]
    pruned = [whole + gap for whole, gap, _ in corpora]
    repaired = [whole + left for whole, _, left in corpora]
    exact = sum(
        (Fraction(p) - Fraction(r)) / (Fraction(p) - Fraction(d))
        for d, p, r in zip(dense, pruned, repaired, strict=True)
    ) / len(corpora)
    assert share_closed(dense, pruned, repaired) == pytest.approx(
        float(100 * exact), rel=1e-9, abs=1e-9
    )


def test_share_closed_by_hand() -> None:
    # Half of a gap of 2 and all of a gap of 1; making things worse is below 0.
    assert share_closed([1.0, 1.0], [3.0, 2.0], [2.0, 1.0]) == 75.0
    assert share_closed([1.0], [2.0], [2.5]) == -50.0
