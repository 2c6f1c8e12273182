"""Closed-form solvers on moments, against slow solvers that see every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.least_squares import (
    RIDGE_GRID,
    Centre,
    Regression,
    RidgeSolver,
    added_regression,
    diagonal_scales,
    heldout_errors,
    resolved_ridge,
    scaled_rotation,
)
from lpsteps.moments import Moments
from lpsteps.patch_matrix import patch_matrix

Rows = np.ndarray[Any, Any]
CHANNELS = 12


def draw(tokens: int, seed: int, outlier: float = 100.0) -> tuple[Rows, Rows]:
    """Rows before and after a gap that mixes channels and rotates; token 0 is massive."""
    mixing = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS)) / CHANNELS**0.5
    generator = np.random.default_rng(seed + 1)
    before = generator.normal(size=(tokens, CHANNELS)) * np.linspace(0.2, 3.0, CHANNELS)
    before[0] *= outlier
    noise = 0.3 * generator.normal(size=before.shape)
    return before, before + 0.5 * before @ mixing + 0.7 + noise


def moments_of(before: Rows, after: Rows, weights: Rows | None = None) -> Moments:
    weight = np.ones(len(before)) if weights is None else weights
    weighted = weight[:, None] * before
    return Moments(
        weight=float(weight.sum()),
        source_source=weighted.T @ before,
        source_target=weighted.T @ after,
        target_square=float((weight[:, None] * after**2).sum()),
        source_sum=weighted.sum(axis=0),
        target_sum=(weight[:, None] * after).sum(axis=0),
    )


def ridge_rows(inputs: Rows, outputs: Rows, ridge: float) -> Rows:
    """Least squares by a QR or SVD of the rows themselves, with the ridge as further rows."""
    width = inputs.shape[1]
    stacked = np.vstack([inputs, ridge**0.5 * np.eye(width)])
    padded = np.vstack([outputs, np.zeros((width, outputs.shape[1]))])
    solution: Rows = np.linalg.lstsq(stacked, padded, rcond=None)[0]
    return solution


@pytest.fixture
def rows() -> tuple[Rows, Rows]:
    return draw(tokens=90, seed=1)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 3.0, 1e4])
def test_ridge_solution_equals_least_squares_on_the_rows(
    rows: tuple[Rows, Rows], ridge: float
) -> None:
    before, after = rows
    found = RidgeSolver(added_regression(moments_of(*rows))).solve(ridge)
    np.testing.assert_allclose(found, ridge_rows(before, after - before, ridge), atol=1e-9)


def test_weights_count_tokens(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    weights = np.random.default_rng(5).integers(1, 5, len(before))
    found = RidgeSolver(added_regression(moments_of(before, after, weights))).solve(2.0)
    repeated = np.repeat(before, weights, axis=0), np.repeat(after - before, weights, axis=0)
    np.testing.assert_allclose(found, ridge_rows(*repeated, ridge=2.0), atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 5.0])
def test_intercept_equals_a_column_of_ones(rows: tuple[Rows, Rows], ridge: float) -> None:
    before, after = rows
    moments = moments_of(*rows)
    centre = Centre.of(moments)
    regression = added_regression(moments, centre)
    matrix = RidgeSolver(regression).solve(ridge)
    # The ridge does not act on the intercept.
    stacked = np.block(
        [
            [before, np.ones((len(before), 1))],
            [ridge**0.5 * np.eye(CHANNELS), np.zeros((CHANNELS, 1))],
        ]
    )
    padded = np.vstack([after - before, np.zeros((CHANNELS, CHANNELS))])
    expected = np.linalg.lstsq(stacked, padded, rcond=None)[0]
    np.testing.assert_allclose(matrix, expected[:-1], atol=1e-9)
    shift = centre.shift(matrix)
    np.testing.assert_allclose(shift, expected[-1], atol=1e-9)
    residual = before + before @ matrix + shift - after
    assert regression.error(matrix) == pytest.approx((residual**2).sum(), rel=1e-9)


def test_moments_around_another_centre_equal_shifted_rows(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    centre = Centre.of(moments_of(*draw(tokens=30, seed=9)))
    found = added_regression(moments_of(*rows), centre)
    source, added = before - centre.source, after - before - centre.added
    np.testing.assert_allclose(found.gram, source.T @ source, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(found.products, source.T @ added, rtol=1e-9, atol=1e-7)
    assert found.square == pytest.approx((added**2).sum())


def test_error_equals_the_residuals_of_the_rows(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    matrix = np.random.default_rng(2).normal(size=(CHANNELS, CHANNELS))
    residuals = before + before @ matrix - after
    regression = added_regression(moments_of(*rows))
    assert regression.error(matrix) == pytest.approx((residuals**2).sum())
    assert regression.scale == pytest.approx((before**2).sum() / CHANNELS)
    # An exact fit leaves nothing but rounding, of either sign.
    for seed in range(20):
        source = np.random.default_rng(seed).normal(size=(50, CHANNELS))
        exact = added_regression(moments_of(source, source + source @ matrix))
        assert exact.error(matrix) >= 0.0


def _low_rank_by_alternation(
    inputs: Rows, outputs: Rows, ridge: float, rank: int, seed: int
) -> Rows:
    """Reduced-rank regression by alternating between its two factors from a random start."""
    width = inputs.shape[1]
    inputs = np.vstack([inputs, ridge**0.5 * np.eye(width)])
    outputs = np.vstack([outputs, np.zeros((width, outputs.shape[1]))])
    right = np.random.default_rng(seed).normal(size=(outputs.shape[1], rank))
    matrix: Rows = np.zeros((width, outputs.shape[1]))
    for _ in range(2000):
        right = np.linalg.qr(right)[0]
        left = np.linalg.lstsq(inputs, outputs @ right, rcond=None)[0]
        right = np.linalg.lstsq(inputs @ left, outputs, rcond=None)[0].T
        matrix, last = left @ right.T, matrix
        if np.abs(matrix - last).max() < 1e-13:
            break
    return matrix


@pytest.mark.parametrize("ridge", [0.0, 20.0])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_solution_is_the_best_of_its_rank(ridge: float, rank: int) -> None:
    before, after = draw(tokens=90, seed=1, outlier=8.0)
    solver = RidgeSolver(added_regression(moments_of(before, after)))
    left, right = solver.solve_low_rank(ridge, rank)
    assert left.shape == right.shape == (CHANNELS, rank)
    np.testing.assert_allclose(right.T @ right, np.eye(rank), atol=1e-12)

    expected = _low_rank_by_alternation(before, after - before, ridge, rank, seed=3)
    np.testing.assert_allclose(left @ right.T, expected, atol=1e-6)

    # Cutting off the singular values of the full solution is worse, so the metric matters.
    u, values, vt = np.linalg.svd(solver.solve(ridge))
    cut = (u[:, :rank] * values[:rank]) @ vt[:rank]
    regression = added_regression(moments_of(before, after))

    def penalised(matrix: Rows) -> float:
        return regression.error(matrix) + ridge * float((matrix**2).sum())

    assert penalised(cut) > 1.02 * penalised(left @ right.T)


def test_full_rank_changes_nothing(rows: tuple[Rows, Rows]) -> None:
    solver = RidgeSolver(added_regression(moments_of(*rows)))
    left, right = solver.solve_low_rank(0.5, CHANNELS)
    np.testing.assert_allclose(left @ right.T, solver.solve(0.5), atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1e7])
def test_directions_without_rows_are_left_alone(ridge: float, scale: float) -> None:
    generator = np.random.default_rng(3)
    inside = np.linalg.qr(generator.normal(size=(CHANNELS, CHANNELS)))[0]
    inside, outside = inside[:, :5], inside[:, 5:]
    before = scale * generator.normal(size=(60, 5)) @ inside.T
    after = before @ generator.normal(size=(CHANNELS, CHANNELS))
    solver = RidgeSolver(added_regression(moments_of(before, after)))
    for matrix in (solver.solve(ridge), np.matmul(*_factors(solver, ridge))):
        assert np.isfinite(matrix).all()
        np.testing.assert_allclose(outside.T @ matrix, 0.0, atol=1e-9)
        expected = ridge_rows(before @ inside, after - before, ridge)
        np.testing.assert_allclose(inside.T @ matrix, expected, atol=1e-7)


def _factors(solver: RidgeSolver, ridge: float) -> tuple[Rows, Rows]:
    left, right = solver.solve_low_rank(ridge, CHANNELS)
    return left, right.T


def test_rows_that_do_not_change_need_no_repair(rows: tuple[Rows, Rows]) -> None:
    before, _ = rows
    moments = moments_of(before, before)
    np.testing.assert_array_equal(RidgeSolver(added_regression(moments)).solve(1e-6), 0.0)
    scale, rotation = scaled_rotation(moments.source_source, moments.source_target)
    assert scale == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(rotation, np.eye(CHANNELS), atol=1e-9)
    squares = np.diag(moments.source_source)
    np.testing.assert_array_equal(diagonal_scales(squares, squares), 1.0)


def test_silence_needs_no_repair() -> None:
    nothing = np.zeros((CHANNELS, CHANNELS))
    solver = RidgeSolver(Regression(nothing, nothing, 0.0))
    np.testing.assert_array_equal(solver.solve(0.0), 0.0)
    with pytest.raises(LpstepsError, match="do not correlate"):
        scaled_rotation(nothing, nothing)


def test_activations_that_overflow_are_refused(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    before[3, 4] = np.inf
    with np.errstate(invalid="ignore"):
        moments = moments_of(before, after)
        with pytest.raises(LpstepsError, match="moments: not finite"):
            RidgeSolver(added_regression(moments))
    with pytest.raises(LpstepsError, match="moments: not finite"):
        scaled_rotation(moments.source_source, moments.source_target)


@pytest.mark.filterwarnings("ignore:(overflow|invalid)")
def test_a_solution_that_overflows_is_refused() -> None:
    gram, products = 1e-160 * np.eye(2), 1e160 * np.eye(2)
    with pytest.raises(LpstepsError, match=r"ridge: 0: the solution overflows.*1e-160"):
        RidgeSolver(Regression(gram, products, 1.0)).solve(0.0)


def test_the_solution_turns_with_the_basis(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    basis = basis_matrix(CHANNELS).matrix
    plain, turned = moments_of(before, after), moments_of(before @ basis, after @ basis)
    np.testing.assert_allclose(
        RidgeSolver(added_regression(turned)).solve(0.3),
        basis.T @ RidgeSolver(added_regression(plain)).solve(0.3) @ basis,
        atol=1e-9,
    )
    scale, rotation = scaled_rotation(plain.source_source, plain.source_target)
    turned_scale, turned_rotation = scaled_rotation(turned.source_source, turned.source_target)
    assert turned_scale == pytest.approx(scale)
    np.testing.assert_allclose(turned_rotation, basis.T @ rotation @ basis, atol=1e-7)


@pytest.mark.parametrize("rank", [None, 2])
def test_heldout_errors_equal_refits_on_the_rows(rank: int | None) -> None:
    (before, after), (other, other_after) = draw(15, seed=1, outlier=4.0), draw(40, seed=2)
    fit = added_regression(moments_of(before, after))
    heldout = added_regression(moments_of(other, other_after))
    expected = []
    for relative in RIDGE_GRID:
        ridge = relative * (before**2).sum() / CHANNELS
        matrix = ridge_rows(before, after - before, ridge)
        if rank is not None:
            stacked = np.vstack([before @ matrix, ridge**0.5 * matrix])
            leading = np.linalg.svd(stacked)[2][:rank]
            matrix = matrix @ leading.T @ leading
        expected.append(((other + other @ matrix - other_after) ** 2).sum())
    np.testing.assert_allclose(heldout_errors(fit, heldout, rank), expected, rtol=1e-6)
    assert (min(RIDGE_GRID), RIDGE_GRID[1], max(RIDGE_GRID)) == (0.0, 1e-8, 100.0)


def _chosen(tokens: int) -> tuple[float, float]:
    fit = moments_of(*draw(tokens, seed=1, outlier=1.0))
    heldout = moments_of(*draw(500, seed=2, outlier=1.0))
    total = added_regression(fit + heldout)
    ridge, audit = resolved_ridge(
        9.0, "heldout", added_regression(fit), added_regression(heldout), total
    )
    (relative,) = audit["relative_ridge"]
    assert relative == RIDGE_GRID[int(audit["heldout_errors"].argmin())]
    assert ridge == audit["ridge"][0] == relative * total.scale
    return float(relative), ridge


def test_fewer_tokens_are_given_more_ridge() -> None:
    chosen = [_chosen(tokens)[0] for tokens in (14, 60, 4000)]
    assert chosen[0] > chosen[1] > chosen[2]


def test_ridges_that_are_given_are_taken(rows: tuple[Rows, Rows]) -> None:
    part = added_regression(moments_of(*rows))
    ridge, audit = resolved_ridge(1e-6, None, part, part, part)
    assert ridge == 1e-6
    assert {name: float(values[0]) for name, values in audit.items()} == {"ridge": 1e-6}
    ridge, audit = resolved_ridge(1e-6, 0.5, part, part, part)
    assert ridge == 0.5 * part.scale
    assert float(audit["relative_ridge"][0]) == 0.5


def test_diagonal_scales_equal_one_regression_per_channel(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    before[:, 4] = 0.0
    moments = moments_of(before, after)
    found = diagonal_scales(np.diag(moments.source_source), np.diag(moments.source_target))
    for channel in range(CHANNELS):
        column = before[:, channel : channel + 1]
        expected = np.linalg.lstsq(column, after[:, channel], rcond=None)[0][0]
        assert found[channel] == pytest.approx(1.0 if channel == 4 else expected)
    # What rounding leaves of a silent channel is not a signal.
    assert diagonal_scales(np.array([1e-17, 1.0]), np.array([1e-16, 2.0])).tolist() == [1.0, 2.0]


def test_rotation_equals_scipy(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    moments = moments_of(*rows)
    scale, rotation = scaled_rotation(moments.source_source, moments.source_target)
    expected, singular_values = orthogonal_procrustes(before, after)
    np.testing.assert_allclose(rotation, expected, atol=1e-7)
    assert scale == pytest.approx(singular_values / (before**2).sum())
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(CHANNELS), atol=1e-12)


def test_penalty_draws_the_scale_down(rows: tuple[Rows, Rows]) -> None:
    before, after = rows
    moments = moments_of(*rows)
    penalty = 0.3 * (before**2).sum()
    scale, rotation = scaled_rotation(moments.source_source, moments.source_target, penalty)

    def objective(candidate: float) -> float:
        residual = candidate * before @ rotation - after
        return float((residual**2).sum()) + penalty * candidate**2

    assert all(objective(scale) < objective(scale * factor) for factor in (0.99, 1.01))


def test_a_rotation_leaves_directions_without_rows_alone() -> None:
    generator = np.random.default_rng(4)
    inside = np.linalg.qr(generator.normal(size=(CHANNELS, CHANNELS)))[0][:, :5]
    turn = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    expected = np.eye(CHANNELS) + inside @ (turn - np.eye(5)) @ inside.T
    before = generator.normal(size=(60, 5)) @ inside.T
    moments = moments_of(before, 1.5 * before @ expected)
    scale, rotation = scaled_rotation(moments.source_source, moments.source_target)
    assert scale == pytest.approx(1.5)
    np.testing.assert_allclose(rotation, expected, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    outlier=st.sampled_from([1.0, 30.0, 1e3, 1e4]),
    tokens=st.sampled_from([CHANNELS // 2, CHANNELS, 40]),
)
def test_no_other_repair_fits_better_than_least_squares(
    seed: int, outlier: float, tokens: int
) -> None:
    before, after = draw(tokens, seed, outlier)
    moments = moments_of(before, after)
    regression = added_regression(moments)
    best = regression.error(RidgeSolver(regression).solve(0.0))
    basis = basis_matrix(CHANNELS).matrix
    ratios = np.abs(after @ basis).mean(axis=0) / np.abs(before @ basis).mean(axis=0)
    fitted = diagonal_scales(
        np.diag(basis.T @ moments.source_source @ basis),
        np.diag(basis.T @ moments.source_target @ basis),
    )
    scale, rotation = scaled_rotation(moments.source_source, moments.source_target)
    errors = {
        name: float(((before @ matrix - after) ** 2).sum())
        for name, matrix in {
            "linearpatch": patch_matrix(basis, ratios),
            "diagonal": patch_matrix(basis, fitted),
            "rotation": scale * rotation,
            "none": np.eye(CHANNELS),
        }.items()
    }
    tolerance = 1e-9 * moments.target_square
    assert all(best <= error + tolerance for error in errors.values())
    assert errors["diagonal"] <= errors["linearpatch"] + tolerance
    assert errors["rotation"] <= errors["none"] + tolerance
