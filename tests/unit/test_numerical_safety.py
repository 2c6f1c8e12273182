"""Extreme activations: computed right where float32 allows it, refused with the reason where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.calibration import _mean_cosines, stream_statistics
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.perplexity import window_losses
from lpsteps.hadamard import basis_matrix
from lpsteps.least_squares import RidgeSolver, added_regression
from lpsteps.models.layers import decoder_of
from lpsteps.moments import Moments
from lpsteps.patches import PatchSet
from lpsteps.plan import Plan
from lpsteps.recovery import channel_scale, linearpatch
from lpsteps.recovery.base import RecoveryContext
from lpsteps.statistics import Statistics

Rows = npt.NDArray[np.float64]
BOUNDARIES, TOKENS, CHANNELS = 3, 20, 12
WINDOW = np.random.default_rng(7).integers(2, 128, (1, 16))


def extreme_streams(seed: int, exponent: int, silent: list[int], constant: bool) -> Rows:
    """Streams of any magnitude, with a massive first token, silent channels, equal tokens."""
    streams = np.random.default_rng(seed).standard_normal((BOUNDARIES, TOKENS, CHANNELS))
    if constant:
        streams[:] = streams[:, :1]
    streams[:, 0, :2] *= 1e4
    streams[..., silent] = 0.0
    return streams * 10.0**exponent


def slow_cosines(vectors: Rows) -> Rows:
    """Mean over the middle axis of the cosines along the last, ``[boundaries, boundaries]``."""
    norms = np.linalg.norm(vectors, axis=2, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return np.einsum("itc,jtc->ij", units, units) / vectors.shape[1]


@given(
    seed=st.integers(0, 99),
    exponent=st.integers(-6, 12),
    silent=st.lists(st.integers(0, CHANNELS - 1), unique=True, max_size=CHANNELS - 1),
    constant=st.booleans(),
)
def test_cosines_of_extreme_streams(
    seed: int, exponent: int, silent: list[int], constant: bool
) -> None:
    rows = torch.tensor(extreme_streams(seed, exponent, silent, constant), dtype=torch.float32)
    streams = rows.double().numpy()
    squares = rows.double().square().sum(dim=1)
    over_channels, over_tokens = _mean_cosines(rows, squares)
    np.testing.assert_allclose(over_channels, slow_cosines(streams), atol=1e-5)
    np.testing.assert_allclose(over_tokens, slow_cosines(streams.swapaxes(1, 2)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_that_overflow_are_refused(tiny_llama: Any, dtype: torch.dtype) -> None:
    with torch.no_grad():
        decoder_of(tiny_llama).layers[2].mlp.down_proj.weight.mul_(1e22)
    model = tiny_llama.to(dtype)
    with pytest.raises(
        LpstepsError, match=r"windows: 0: .*e\+.* their squares overflow in float32"
    ):
        list(stream_statistics(model, WINDOW, basis_matrix(48)))


def test_sums_of_squares_that_overflow_are_refused(tiny_llama: Any) -> None:
    """One channel whose squares are finite, but not the sum of 64 of them."""
    window = np.full((1, 64), 5)
    with torch.no_grad():
        tiny_llama.get_input_embeddings().weight[5].zero_()
        tiny_llama.get_input_embeddings().weight[5, 3] = 9e18
    with pytest.raises(LpstepsError, match="their squares overflow in float32"):
        list(stream_statistics(tiny_llama, window, basis_matrix(48)))


def test_results_do_not_depend_on_what_memory_held(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch can fill every new tensor with NaN before it is written."""

    def measured() -> list[Rows | float]:
        (sample,) = stream_statistics(tiny_llama, WINDOW, basis_matrix(48))
        arrays = [*sample.mean_absolute.values(), sample.cosine, sample.token_axis_cosine]
        return [*arrays, *window_losses(tiny_llama, WINDOW)]

    plain = measured()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        filled = measured()
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    for one, other in zip(plain, filled, strict=True):
        np.testing.assert_array_equal(one, other)


def statistics_of(means: Rows) -> Statistics:
    """Statistics of two boundaries ``[samples, 2, channels]`` in both bases."""
    return Statistics(
        basis_name=basis_matrix(means.shape[2]).name,
        model="tiny",
        tokens=np.full(len(means), 8, dtype=np.int32),
        means={"identity": means, "hadamard": means},
        pairs=np.ones((len(means), 3, 3)),
    )


def built(method: Any, means: Rows) -> PatchSet:
    padded = np.concatenate([means, means[:, -1:]], axis=1)
    context = RecoveryContext(Plan.removing(2, (0,)), means.shape[2], statistics_of(padded))
    patches: PatchSet = method.build(context, method.Params())
    return patches


@given(
    seed=st.integers(0, 99),
    exponents=st.lists(st.integers(-12, 12), min_size=2, max_size=2),
    silent=st.lists(st.integers(0, CHANNELS - 1), unique=True, max_size=CHANNELS - 1),
    side=st.sampled_from([0, 1, slice(None)]),
)
def test_patches_from_extreme_magnitudes_are_finite_and_positive(
    seed: int, exponents: list[int], silent: list[int], side: Any
) -> None:
    means = np.abs(np.random.default_rng(seed).standard_normal((2, 2, CHANNELS)))
    means *= 10.0 ** np.array(exponents)[:, None]
    means[:, side, silent] = 0.0
    scales = built(channel_scale, means).gaps[0].operations[0].weight
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    matrix = built(linearpatch, means).gaps[0].operations[0].weight
    assert np.isfinite(matrix).all()
    np.testing.assert_array_equal(matrix, matrix.T)


def test_a_stream_of_zeros_is_refused() -> None:
    with pytest.raises(LpstepsError, match="sample 0: the stream is zero in all channels"):
        built(channel_scale, np.zeros((2, 2, CHANNELS)))


@given(
    seed=st.integers(0, 99),
    exponent=st.integers(-6, 6),
    rank=st.integers(1, CHANNELS - 1),
    massive=st.sampled_from([1.0, 1e4]),
)
def test_rank_deficient_least_squares_fits_as_well_as_the_pseudo_inverse(
    seed: int, exponent: int, rank: int, massive: float
) -> None:
    generator = np.random.default_rng(seed)
    before = generator.standard_normal((40, rank)) @ generator.standard_normal((rank, CHANNELS))
    before[0] *= massive
    before *= 10.0**exponent
    after = before + before @ generator.standard_normal((CHANNELS, CHANNELS))
    after += 0.1 * np.abs(before).mean() * generator.standard_normal(after.shape)
    moments = Moments(
        weight=float(len(before)),
        source_source=before.T @ before,
        source_target=before.T @ after,
        target_square=float((after**2).sum()),
        source_sum=before.sum(axis=0),
        target_sum=after.sum(axis=0),
    )
    solution = RidgeSolver(added_regression(moments)).solve(0.0)
    best = np.linalg.lstsq(before, after - before, rcond=1e-9)[0]
    left = ((before + before @ solution - after) ** 2).sum()
    least = ((before + before @ best - after) ** 2).sum()
    assert left <= least * (1 + 1e-6)
    # Nothing is made of directions that no row takes.
    assert np.abs(solution).max() <= 1e3 * max(1.0, float(np.abs(best).max()))
