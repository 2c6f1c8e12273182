"""Recoveries with a closed form, on the activations of tiny models, against slow references.

The references see every row: forward passes of the dense model with hooks of their own, then
`numpy.linalg.lstsq` and `scipy.linalg.orthogonal_procrustes` on the stacked rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.linalg import orthogonal_procrustes

from lpsteps.calibration import stream_statistics
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.least_squares import RIDGE_GRID
from lpsteps.models.gap_moments import gap_moments
from lpsteps.moments import BranchMoments, GapMoments, Moments, gap_of
from lpsteps.patches import GapPatch, PatchSet
from lpsteps.plan import Plan
from lpsteps.recovery import (
    channel_scale,
    least_squares,
    least_squares_diagonal,
    linearpatch,
    procrustes,
    procrustes_replaceme,
    prune_and_comp,
    replaceme,
)
from lpsteps.recovery.base import RecoveryContext
from lpsteps.statistics import Statistics

HIDDEN_SIZE = 48
N_LAYERS = 4
WINDOWS = 16
LENGTH = 60
HELDOUT = 2  # the last eighth of the windows

Rows = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stream:
    """Rows of every boundary, and of every layer's MLP output, float64 `[windows, tokens, C]`."""

    boundaries: list[Rows]
    mlp: list[Rows]

    def rows(self, boundary: int) -> Rows:
        return self.boundaries[boundary].reshape(-1, HIDDEN_SIZE)


def read_stream(model: Any, windows: Rows) -> Stream:
    import torch

    from lpsteps.models.layers import branch_outputs, decoder_of

    decoder = decoder_of(model)
    boundaries: list[Rows] = []
    mlp: list[Rows] = []
    shape = (*windows.shape, HIDDEN_SIZE)

    def keep_input(_: Any, positional: Any, named: Any) -> None:
        hidden = positional[0] if positional else named["hidden_states"]
        boundaries.append(hidden.double().numpy().copy())

    def keep_output(_: Any, positional: Any, output: Any) -> None:
        mlp.append(output.double().numpy().reshape(shape).copy())

    handles = [
        branch_outputs(layer).mlp.register_forward_hook(keep_output) for layer in decoder.layers
    ]
    # After the patches, so that a boundary is what the layer itself reads.
    handles += [
        module.register_forward_pre_hook(keep_input, with_kwargs=True)
        for module in [*decoder.layers, decoder.norm]
    ]
    with torch.no_grad():
        model(torch.from_numpy(windows))
    for handle in handles:
        handle.remove()
    return Stream(boundaries, mlp)


def _products(source: Rows, target: Rows, mlp: Rows | None) -> Moments:
    source, target = source.reshape(-1, HIDDEN_SIZE), target.reshape(-1, HIDDEN_SIZE)
    moments = {
        "weight": float(len(source)),
        "source_source": source.T @ source,
        "source_target": source.T @ target,
        "target_square": squares(target),
        "source_sum": source.sum(axis=0),
        "target_sum": target.sum(axis=0),
    }
    if mlp is None:
        return Moments(**moments)
    mlp = mlp.reshape(-1, HIDDEN_SIZE)
    return BranchMoments(
        **moments,
        branch_branch=mlp.T @ mlp,
        branch_source=mlp.T @ source,
        branch_target=mlp.T @ target,
    )


def moments_of(stream: Stream, start: int, end: int, *, branch: bool = False) -> GapMoments:
    source, target = stream.boundaries[start], stream.boundaries[end]
    parts = []
    for windows in (slice(None, -HELDOUT), slice(-HELDOUT, None)):
        mlp = stream.mlp[start - 1][windows] if branch else None
        parts.append(_products(source[windows], target[windows], mlp))
    return gap_of(start, end, *parts)


def fitted(inputs: Rows, outputs: Rows, ridge: float = 0.0) -> Rows:
    """Least squares on the rows, with the ridge as further rows."""
    stacked = np.vstack([inputs, ridge**0.5 * np.eye(inputs.shape[1])])
    padded = np.vstack([outputs, np.zeros((inputs.shape[1], outputs.shape[1]))])
    solution: Rows = np.linalg.lstsq(stacked, padded, rcond=None)[0]
    return solution


def squares(rows: Rows) -> float:
    return float((rows**2).sum())


@pytest.fixture
def windows() -> Rows:
    return np.random.default_rng(11).integers(2, 128, (WINDOWS, LENGTH))


@pytest.fixture
def model(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("llama", layers=N_LAYERS)


@pytest.fixture
def stream(model: Any, windows: Rows) -> Stream:
    return read_stream(model, windows)


@dataclass(frozen=True)
class Loaded:
    """A model input whose model is in memory."""

    model: Any
    text: Rows
    exclude_first: int = 0
    folder: Path = Path("models/tiny")
    compute: Path = Path("compute.json")

    def load(self, copies: float = 1) -> Any:
        return self.model


def context_of(
    stream: Stream, *removed: int, branch: bool = False, model: Any = None, windows: Any = None
) -> RecoveryContext:
    plan = Plan.removing(N_LAYERS, removed)
    moments = [moments_of(stream, start, end, branch=branch) for start, end in plan.gaps]
    source: Any = None if model is None else Loaded(model, windows)
    return RecoveryContext(plan, HIDDEN_SIZE, moments=moments, model=source)


def entering(model: Any, plan: Plan, patches: PatchSet, windows: Rows, boundary: int) -> Rows:
    """Rows that a boundary of the dense model gets in a pruned and patched copy of it."""
    import copy

    from lpsteps.models.surgery import apply_plan

    model = copy.deepcopy(model)
    apply_plan(model, plan, patches)
    position = boundary - sum(layer < boundary for layer in plan.layers)
    return read_stream(model, windows).rows(position)


# Least squares


def test_least_squares_is_the_fit_of_the_rows(stream: Stream) -> None:
    patches = least_squares.build(context_of(stream, 1, 2), least_squares.Params())
    (gap,) = patches.gaps
    (operation,) = gap.operations
    before, after = stream.rows(1), stream.rows(3)
    expected = np.eye(HIDDEN_SIZE) + fitted(before, after - before, 1e-6)
    assert (gap.start, gap.end, operation.kind) == (1, 3, "matrix")
    assert operation.weight.dtype == np.float64
    np.testing.assert_allclose(operation.weight, expected, atol=1e-7)
    np.testing.assert_allclose(
        patches.audit["gaps.0.errors"],
        [squares(before - after), squares(before @ expected - after)],
        rtol=1e-7,
    )
    np.testing.assert_array_equal(patches.audit["gaps.0.ridge"], [1e-6])
    assert patches.parameters == HIDDEN_SIZE**2
    assert not patches.foldable


def test_least_squares_with_an_intercept(stream: Stream) -> None:
    params = least_squares.Params(epsilon=2.0, intercept=True)
    patches = least_squares.build(context_of(stream, 1, 2), params)
    matrix, shift = patches.gaps[0].operations
    before, after = stream.rows(1), stream.rows(3)
    means = before.mean(axis=0), (after - before).mean(axis=0)
    expected = fitted(before - means[0], after - before - means[1], 2.0)
    np.testing.assert_allclose(matrix.weight, np.eye(HIDDEN_SIZE) + expected, atol=1e-8)
    np.testing.assert_allclose(shift.weight, means[1] - means[0] @ expected, atol=1e-8)
    assert (matrix.kind, shift.kind) == ("matrix", "shift")
    repaired = before @ matrix.weight + shift.weight
    np.testing.assert_allclose(
        patches.audit["gaps.0.errors"],
        [squares(before - after), squares(repaired - after)],
        rtol=1e-7,
    )


@pytest.mark.parametrize("intercept", [False, True])
def test_low_rank_least_squares_keeps_the_leading_fitted_values(
    stream: Stream, intercept: bool
) -> None:
    params = least_squares.Params(epsilon=0.0, rank=3, intercept=intercept)
    patches = least_squares.build(context_of(stream, 1, 2), params)
    operation, *rest = patches.gaps[0].operations
    before, after = stream.rows(1), stream.rows(3)
    inputs = before - before.mean(axis=0) if intercept else before
    added = after - before
    outputs = added - added.mean(axis=0) if intercept else added
    full = fitted(inputs, outputs)
    leading = np.linalg.svd(inputs @ full)[2][:3]
    assert operation.kind == "low_rank"
    assert operation.weight.shape == (2, HIDDEN_SIZE, 3)
    left, right = operation.weight
    np.testing.assert_allclose(left @ right.T, full @ leading.T @ leading, atol=1e-6)
    assert [operation.kind for operation in rest] == (["shift"] if intercept else [])
    repaired = before + before @ left @ right.T + (rest[0].weight if intercept else 0.0)
    assert patches.audit["gaps.0.errors"][1] == pytest.approx(squares(repaired - after))
    assert patches.parameters == 2 * 3 * HIDDEN_SIZE + (HIDDEN_SIZE if intercept else 0)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_ridge_is_chosen_on_heldout_windows_and_all_are_fitted(
    stream: Stream, intercept: bool
) -> None:
    params = least_squares.Params(relative_ridge="heldout", intercept=intercept)
    patches = least_squares.build(context_of(stream, 1, 2), params)
    source, target = (
        np.split(stream.boundaries[boundary], [WINDOWS - HELDOUT]) for boundary in (1, 3)
    )
    (before, heldout), (after, heldout_after) = (
        [part.reshape(-1, HIDDEN_SIZE) for part in parts] for parts in (source, target)
    )

    def solution(before: Rows, after: Rows, relative: float) -> tuple[Rows, Rows]:
        added = after - before
        means = np.zeros((2, HIDDEN_SIZE))
        if intercept:
            means = np.stack([before.mean(axis=0), added.mean(axis=0)])
        ridge = relative * squares(before - means[0]) / HIDDEN_SIZE
        matrix = fitted(before - means[0], added - means[1], ridge)
        return np.eye(HIDDEN_SIZE) + matrix, means[1] - means[0] @ matrix

    errors = []
    for relative in RIDGE_GRID:
        matrix, shift = solution(before, after, relative)
        errors.append(squares(heldout @ matrix + shift - heldout_after))
    np.testing.assert_allclose(patches.audit["gaps.0.heldout_errors"], errors, rtol=1e-6)
    np.testing.assert_array_equal(patches.audit["gaps.0.relative_ridges"], RIDGE_GRID)
    best = RIDGE_GRID[int(np.argmin(errors))]
    assert 0.0 < best < max(RIDGE_GRID)
    assert patches.audit["gaps.0.relative_ridge"] == [best]
    matrix, shift = solution(stream.rows(1), stream.rows(3), best)
    operations = patches.gaps[0].operations
    np.testing.assert_allclose(operations[0].weight, matrix, atol=1e-8)
    if intercept:
        np.testing.assert_allclose(operations[1].weight, shift, atol=1e-8)


def test_least_squares_gives_every_gap_its_own_matrix(stream: Stream) -> None:
    both = least_squares.build(context_of(stream, 0, 2, 3), least_squares.Params())
    assert [(gap.start, gap.end) for gap in both.gaps] == [(0, 1), (2, 4)]
    for index, removed in enumerate([(0,), (2, 3)]):
        alone = least_squares.build(context_of(stream, *removed), least_squares.Params())
        np.testing.assert_array_equal(
            both.gaps[index].operations[0].weight, alone.gaps[0].operations[0].weight
        )


def calibrated(model: Any, windows: Rows) -> Statistics:
    """What the calibration measures."""
    basis = basis_matrix(HIDDEN_SIZE)
    samples = list(stream_statistics(model, windows, basis))
    return Statistics(
        basis_name=basis.name,
        model="tiny",
        tokens=np.array([sample.tokens for sample in samples]),
        means={
            name: np.stack([sample.mean_absolute[name] for sample in samples])
            for name in ("identity", "hadamard")
        },
        pairs=np.stack([sample.cosine for sample in samples]),
    )


def reconstruction_errors(patches: PatchSet, stream: Stream) -> list[float]:
    """Sum of squares that each patch leaves between what it makes of a gap's rows and the target.

    Computed on the rows themselves, in float64.
    """
    errors = []
    for gap in patches.gaps:
        rows = stream.rows(gap.start)
        for operation in gap.operations:
            elementwise = operation.kind in ("scale", "scalar")
            rows = rows * operation.weight if elementwise else rows @ operation.weight
        errors.append(squares(rows - stream.rows(gap.end)))
    return errors


@pytest.mark.parametrize(
    "tokens", [(WINDOWS, LENGTH), (2, 20)], ids=["many", "fewer than channels"]
)
@pytest.mark.parametrize("massive", [False, True])
@pytest.mark.parametrize("removed", [(1, 2), (0, 2, 3)])
def test_no_other_repair_reconstructs_activations_better_than_least_squares(
    model: Any, windows: Rows, removed: tuple[int, ...], massive: bool, tokens: tuple[int, int]
) -> None:
    """Of a model that runs on windows, with moments and statistics as the steps measure them."""
    windows = windows[: tokens[0], : tokens[1]]
    if massive:
        # As trained models do with the first token of a window.
        windows[:, 0] = 2
        model.get_input_embeddings().weight[2] *= 300.0
    plan = Plan.removing(N_LAYERS, removed)
    context = RecoveryContext(
        plan,
        HIDDEN_SIZE,
        statistics=calibrated(model, windows),
        moments=gap_moments(model, windows, plan.gaps),
    )
    stream = read_stream(model, windows)
    best = reconstruction_errors(
        least_squares.build(context, least_squares.Params(epsilon=0.0)), stream
    )
    others = {
        "linearpatch": linearpatch.build(context, linearpatch.Params()),
        "linearpatch-per-layer": linearpatch.build(
            context, linearpatch.Params(grouping="per_layer")
        ),
        "channel-scale": channel_scale.build(context, channel_scale.Params()),
        "procrustes": procrustes.build(context, procrustes.Params()),
        "none": PatchSet(tuple(GapPatch(start, end, ()) for start, end in plan.gaps)),
    }
    totals = [squares(stream.rows(end)) for _, end in plan.gaps]
    for name, patches in others.items():
        errors = reconstruction_errors(patches, stream)
        for least, error, total in zip(best, errors, totals, strict=True):
            assert least <= error + 1e-9 * total, name
            assert error > 1e-6 * total, name
    with_ridge = reconstruction_errors(
        least_squares.build(context, least_squares.Params(epsilon=1e-6)), stream
    )
    for least, error, total in zip(best, with_ridge, totals, strict=True):
        assert error <= least + 1e-6 * total


@pytest.mark.parametrize("weighting", ["uniform", "inverse_norm"])
def test_sequential_statistics_agree_for_one_gap_of_one_layer(
    model: Any, windows: Rows, weighting: Any
) -> None:
    plan = Plan.removing(N_LAYERS, (2,))
    context = RecoveryContext(
        plan,
        HIDDEN_SIZE,
        moments=gap_moments(model, windows, plan.gaps, weighting=weighting),
        model=Loaded(model, windows),  # type: ignore[arg-type]
    )
    found = [
        least_squares.build(
            context,
            least_squares.Params(relative_ridge=1e-4, weighting=weighting, statistics=statistics),
        )
        for statistics in ("original", "sequential")
    ]
    original, sequential = (patches.gaps[0].operations[0].weight for patches in found)
    np.testing.assert_allclose(sequential, original, atol=1e-5)


@pytest.mark.parametrize("removed", [(1, 3), (0, 2, 3), (0, 1, 3)])
def test_sequential_statistics_read_the_repaired_model(
    stream: Stream, model: Any, windows: Rows, removed: tuple[int, ...]
) -> None:
    plan = Plan.removing(N_LAYERS, removed)
    context = context_of(stream, *removed, model=model, windows=windows)
    params = least_squares.Params(relative_ridge=1e-4, statistics="sequential")
    patches = least_squares.build(context, params)
    (_, first_end), (start, end) = plan.gaps
    # What enters the second gap when the first is removed and repaired.
    earlier = Plan.removing(N_LAYERS, tuple(range(plan.gaps[0][0], first_end)))
    before = entering(model, earlier, PatchSet(patches.gaps[:1]), windows, start)
    after = stream.rows(end)
    ridge = 1e-4 * squares(before) / HIDDEN_SIZE
    expected = np.eye(HIDDEN_SIZE) + fitted(before, after - before, ridge)
    np.testing.assert_allclose(patches.gaps[1].operations[0].weight, expected, atol=1e-4)

    original = least_squares.build(context, least_squares.Params(relative_ridge=1e-4))
    errors = {
        name: squares(entering(model, plan, repaired, windows, end) - after)
        for name, repaired in {"sequential": patches, "original": original}.items()
    }
    assert errors["sequential"] < 0.99 * errors["original"]
    assert patches.audit["gaps.1.errors"][1] == pytest.approx(errors["sequential"], rel=1e-4)
    # The model that was lent is still the dense one.
    np.testing.assert_array_equal(read_stream(model, windows).rows(end), after)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_sequential_statistics_of_other_families(
    tiny_model: Callable[..., Any], windows: Rows, family: str
) -> None:
    """Norms of queries and keys; layers that differ in kind, with norms behind their branches."""
    model = tiny_model(family, layers=N_LAYERS)
    plan = Plan.removing(N_LAYERS, (0, 2))
    context = RecoveryContext(plan, HIDDEN_SIZE, model=Loaded(model, windows))  # type: ignore[arg-type]
    params = least_squares.Params(relative_ridge=1e-4, statistics="sequential")
    patches = least_squares.build(context, params)
    dense = read_stream(model, windows)
    for index, (start, end) in enumerate(plan.gaps):
        earlier = Plan.removing(N_LAYERS, [layer for layer in plan.layers if layer < start])
        before = entering(model, earlier, PatchSet(patches.gaps[:index]), windows, start)
        after = dense.rows(end)
        ridge = 1e-4 * squares(before) / HIDDEN_SIZE
        expected = np.eye(HIDDEN_SIZE) + fitted(before, after - before, ridge)
        np.testing.assert_allclose(patches.gaps[index].operations[0].weight, expected, atol=1e-4)
    original = gap_moments(model, windows, plan.gaps)
    unaware = least_squares.build(
        RecoveryContext(plan, HIDDEN_SIZE, moments=original),
        least_squares.Params(relative_ridge=1e-4),
    )
    first, second = (
        np.abs(found.operations[0].weight - other.operations[0].weight).max()
        for found, other in zip(patches.gaps, unaware.gaps, strict=True)
    )
    assert first < 1e-4 < 1e-2 < second


def test_sequential_statistics_leave_out_excluded_tokens(
    stream: Stream, model: Any, windows: Rows
) -> None:
    source: Any = Loaded(model, windows, exclude_first=20)
    context = RecoveryContext(Plan.removing(N_LAYERS, (2,)), HIDDEN_SIZE, model=source)
    params = least_squares.Params(relative_ridge=1e-4, statistics="sequential")
    (gap,) = least_squares.build(context, params).gaps
    before, after = (
        stream.boundaries[boundary][:, 20:].reshape(-1, HIDDEN_SIZE) for boundary in (2, 3)
    )
    ridge = 1e-4 * squares(before) / HIDDEN_SIZE
    expected = np.eye(HIDDEN_SIZE) + fitted(before, after - before, ridge)
    np.testing.assert_allclose(gap.operations[0].weight, expected, atol=1e-5)


def test_parameters_that_contradict_are_refused(stream: Stream) -> None:
    for method, absolute in ((least_squares, "epsilon"), (replaceme, "alpha")):
        with pytest.raises(ValidationError, match=f"{absolute} and relative_ridge"):
            method.Params.model_validate({absolute: 1.0, "relative_ridge": 0.1})
    for wrong in ({"relative_ridge": -1.0}, {"relative_ridge": "best"}, {"epsilon": float("nan")}):
        with pytest.raises(ValidationError):
            least_squares.Params.model_validate(wrong)
    with pytest.raises(LpstepsError, match="rank: 49: must not exceed the hidden size, 48"):
        least_squares.build(context_of(stream, 1), least_squares.Params(rank=49))


def test_needs_follow_from_the_parameters() -> None:
    for method in (least_squares, least_squares_diagonal, procrustes):
        assert method.needs(method.Params()) == {"stream-moments"}
        weighted = method.Params(weighting="inverse_norm")
        assert method.needs(weighted) == {"weighted-stream-moments"}
    sequential = least_squares.Params(statistics="sequential", weighting="inverse_norm")
    assert least_squares.needs(sequential) == {"model"}


# Channel scales and rotations


@pytest.mark.parametrize("basis", ["identity", "hadamard"])
def test_diagonal_least_squares_fits_each_channel(stream: Stream, basis: Any) -> None:
    params = least_squares_diagonal.Params(basis=basis)
    patches = least_squares_diagonal.build(context_of(stream, 1, 2), params)
    (operation,) = patches.gaps[0].operations
    turn = np.eye(HIDDEN_SIZE) if basis == "identity" else basis_matrix(HIDDEN_SIZE).matrix
    before, after = stream.rows(1) @ turn, stream.rows(3) @ turn
    scales = [
        np.linalg.lstsq(before[:, [channel]], after[:, channel], rcond=None)[0][0]
        for channel in range(HIDDEN_SIZE)
    ]
    np.testing.assert_allclose(patches.audit["gaps.0.d"], scales, rtol=1e-10)
    if basis == "identity":
        assert operation.kind == "scale"
        np.testing.assert_allclose(operation.weight, scales, rtol=1e-10)
    else:
        assert operation.kind == "matrix"
        np.testing.assert_allclose(operation.weight, turn @ np.diag(scales) @ turn.T, atol=1e-10)


def test_procrustes_is_the_fit_of_the_rows(stream: Stream) -> None:
    patches = procrustes.build(context_of(stream, 1, 2), procrustes.Params())
    (operation,) = patches.gaps[0].operations
    before, after = stream.rows(1), stream.rows(3)
    rotation, singular_values = orthogonal_procrustes(before, after)
    scale = singular_values / squares(before)
    assert operation.kind == "rotation"
    np.testing.assert_allclose(operation.weight, scale * rotation, atol=1e-6)
    np.testing.assert_allclose(
        patches.audit["gaps.0.errors"],
        [squares(before - after), squares(scale * before @ rotation - after)],
        rtol=1e-8,
    )
    assert patches.audit["gaps.0.scale"] == pytest.approx([scale])
    assert patches.foldable


# ReplaceMe


@pytest.mark.parametrize("prior", ["zero", "identity"])
@pytest.mark.parametrize("alpha", [0.0, 50.0])
def test_replaceme_refits_the_last_mlp(
    stream: Stream, model: Any, windows: Rows, prior: Any, alpha: float
) -> None:
    context = context_of(stream, 2, branch=True, model=model, windows=windows)
    patches = replaceme.build(context, replaceme.Params(alpha=alpha, prior=prior))
    before, after, mlp = stream.rows(2), stream.rows(3), stream.mlp[1].reshape(-1, HIDDEN_SIZE)
    rest = before - mlp
    if prior == "zero":
        transform = fitted(mlp, after - rest, alpha)
    else:
        transform = np.eye(HIDDEN_SIZE) + fitted(mlp, after - before, alpha)
    assert patches.gaps == ()
    assert patches.parameters == 0
    assert patches.foldable
    assert list(patches.replacements) == ["layers.1.mlp.down_proj.weight"]
    weight = model.model.layers[1].mlp.down_proj.weight.double().numpy()
    np.testing.assert_allclose(
        patches.replacements["layers.1.mlp.down_proj.weight"], transform.T @ weight, atol=1e-6
    )
    np.testing.assert_allclose(
        patches.audit["gaps.0.errors"],
        [squares(before - after), squares(rest + mlp @ transform - after)],
        rtol=1e-6,
    )


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox", "qwen2", "phi3"])
def test_a_refitted_mlp_writes_what_was_fitted(
    tiny_model: Callable[..., Any], windows: Rows, family: str
) -> None:
    import torch

    model = tiny_model(family, layers=N_LAYERS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    stream = read_stream(model, windows)
    context = context_of(stream, 2, branch=True, model=model, windows=windows)
    before, after, mlp = stream.rows(2), stream.rows(3), stream.mlp[1].reshape(-1, HIDDEN_SIZE)

    refitted = replaceme.build(context, replaceme.Params(relative_ridge=1e-4))
    transform = fitted(mlp, after - before + mlp, 1e-4 * squares(mlp) / HIDDEN_SIZE)
    np.testing.assert_allclose(
        entering(model, context.plan, refitted, windows, 3),
        before - mlp + mlp @ transform,
        atol=1e-3 * np.abs(after).max(),
    )
    assert len(refitted.replacements) == (2 if family in ("opt", "gpt_neox") else 1)

    params = procrustes_replaceme.Params(relative_ridge=1e-4)
    jointly = procrustes_replaceme.build(context, params)
    residuals = entering(model, context.plan, jointly, windows, 3) - after
    errors = jointly.audit["gaps.0.errors"]
    assert squares(residuals) == pytest.approx(errors[-1], rel=1e-3)
    assert errors[0] == pytest.approx(squares(before - after), rel=1e-6)
    assert jointly.foldable


def test_replaceme_chooses_its_ridge_on_heldout_windows(
    stream: Stream, model: Any, windows: Rows
) -> None:
    context = context_of(stream, 2, branch=True, model=model, windows=windows)
    params = replaceme.Params(relative_ridge="heldout", prior="identity")
    patches = replaceme.build(context, params)
    parts = [
        [part.reshape(-1, HIDDEN_SIZE) for part in np.split(rows, [WINDOWS - HELDOUT])]
        for rows in (stream.mlp[1], stream.boundaries[3] - stream.boundaries[2])
    ]
    (mlp, heldout_mlp), (added, heldout_added) = parts
    errors = []
    for relative in RIDGE_GRID:
        change = fitted(mlp, added, relative * squares(mlp) / HIDDEN_SIZE)
        errors.append(squares(heldout_mlp @ change - heldout_added))
    np.testing.assert_allclose(patches.audit["gaps.0.heldout_errors"], errors, rtol=1e-5)
    assert patches.audit["gaps.0.relative_ridge"] == [RIDGE_GRID[int(np.argmin(errors))]]


@pytest.mark.parametrize("method", [replaceme, procrustes_replaceme])
def test_moments_without_a_branch_are_refused(stream: Stream, method: Any) -> None:
    with pytest.raises(LpstepsError, match="--moments: must be of kind branch"):
        method.build(context_of(stream, 2), method.Params())


# Procrustes and ReplaceMe together


@pytest.mark.parametrize("relative", [0.0, 0.3])
def test_rounds_alternate_between_procrustes_and_least_squares(
    stream: Stream, relative: float
) -> None:
    moments = moments_of(stream, 2, 3, branch=True)
    before, after, mlp = stream.rows(2), stream.rows(3), stream.mlp[1].reshape(-1, HIDDEN_SIZE)
    ridge = relative * squares(mlp) / HIDDEN_SIZE
    change = np.zeros((HIDDEN_SIZE, HIDDEN_SIZE))
    errors = [squares(before - after)]
    for rounds in (1, 2, 3):
        joint = procrustes_replaceme.fit_jointly(
            moments.fit + moments.heldout,  # type: ignore[arg-type]
            procrustes_replaceme.Params(rounds=rounds, relative_ridge=relative),
        )
        source = before + mlp @ change
        rotation, singular_values = orthogonal_procrustes(source, after)
        rotation = singular_values / (squares(source) + ridge * squares(change)) * rotation
        errors.append(squares(source @ rotation - after))
        change = fitted(mlp, after - before @ rotation, ridge) @ np.linalg.inv(rotation)
        errors.append(squares((before + mlp @ change) @ rotation - after))
        np.testing.assert_allclose(joint.rotation, rotation, atol=1e-5)
        np.testing.assert_allclose(joint.transform, np.eye(HIDDEN_SIZE) + change, atol=1e-5)
        np.testing.assert_allclose(joint.errors, errors, rtol=1e-7)


@pytest.mark.parametrize("start", [1, 2])
def test_no_round_makes_the_error_larger(stream: Stream, start: int) -> None:
    moments = moments_of(stream, start, start + 2, branch=True)
    both: Any = moments.fit + moments.heldout
    joint = procrustes_replaceme.fit_jointly(both, procrustes_replaceme.Params(rounds=6))
    steps = np.diff(joint.errors)
    assert (steps <= 1e-9 * joint.errors[0]).all()
    assert (steps[2:4] < -1e-4 * joint.errors[0]).all()
    before, after = stream.rows(start), stream.rows(start + 2)
    mlp = stream.mlp[start - 1].reshape(-1, HIDDEN_SIZE)
    repaired = (before - mlp + mlp @ joint.transform) @ joint.rotation
    assert joint.errors[-1] == pytest.approx(squares(repaired - after), rel=1e-8)


def test_no_round_makes_the_penalised_error_larger(stream: Stream) -> None:
    moments = moments_of(stream, 1, 3, branch=True)
    both: Any = moments.fit + moments.heldout
    relative = 0.3
    ridge = relative * np.trace(both.branch_branch) / HIDDEN_SIZE
    objectives = []
    for rounds in range(1, 7):
        joint = procrustes_replaceme.fit_jointly(
            both, procrustes_replaceme.Params(rounds=rounds, relative_ridge=relative)
        )
        change = (joint.transform - np.eye(HIDDEN_SIZE)) @ joint.rotation
        objectives.append(joint.errors[-1] + ridge * squares(change))
        weak = procrustes_replaceme.fit_jointly(
            both, procrustes_replaceme.Params(rounds=rounds, relative_ridge=1e-3)
        )
        assert squares(change) < squares((weak.transform - np.eye(HIDDEN_SIZE)) @ weak.rotation)
    assert (np.diff(objectives) <= 1e-9 * objectives[0]).all()


# Prune&Comp


def _statistics(stream: Stream) -> Statistics:
    means = np.stack([np.abs(rows).mean(axis=1) for rows in stream.boundaries], axis=1)
    boundaries = len(stream.boundaries)
    return Statistics(
        basis_name=basis_matrix(HIDDEN_SIZE).name,
        model="tiny",
        tokens=np.full(WINDOWS, LENGTH, dtype=np.int32),
        means={"identity": means, "hadamard": means**2},
        pairs=np.ones((WINDOWS, boundaries, boundaries)),
    )


def _alpha(stream: Stream, start: int, end: int) -> float:
    samples = []
    for window in range(WINDOWS):
        ratios = []
        for channel in range(HIDDEN_SIZE):
            source = np.abs(stream.boundaries[start][window, :, channel]).mean()
            target = np.abs(stream.boundaries[end][window, :, channel]).mean()
            ratios.append(target / source)
        samples.append(sum(ratios) / HIDDEN_SIZE)
    return sum(samples) / WINDOWS


def test_prune_and_comp_equals_slow_loops(stream: Stream) -> None:
    context = RecoveryContext(
        Plan.removing(N_LAYERS, (0, 2, 3)), HIDDEN_SIZE, statistics=_statistics(stream)
    )
    per_gap = prune_and_comp.build(context, prune_and_comp.Params())
    per_layer = prune_and_comp.build(context, prune_and_comp.Params(grouping="per_layer"))
    assert [(gap.start, gap.end) for gap in per_gap.gaps] == [(0, 1), (2, 4)]
    found = [[op.weight.tolist() for op in gap.operations] for gap in per_gap.gaps]
    assert found == [
        [[pytest.approx(_alpha(stream, 0, 1))]],
        [[pytest.approx(_alpha(stream, 2, 4))]],
    ]
    assert per_layer.gaps[0].operations[0].weight == per_gap.gaps[0].operations[0].weight
    assert [op.weight[0] for op in per_layer.gaps[1].operations] == [
        pytest.approx(_alpha(stream, 2, 3)),
        pytest.approx(_alpha(stream, 3, 4)),
    ]
    assert {op.kind for gap in per_layer.gaps for op in gap.operations} == {"scalar"}
    assert (per_gap.parameters, per_layer.parameters) == (2, 3)
    assert per_gap.foldable
