"""Channel ratios and the patches built from them, against slow loops and closed forms."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.methods import method_names, recovery_method, recovery_needs
from lpsteps.patch_matrix import patch_matrix
from lpsteps.plan import Plan
from lpsteps.recovery import channel_scale, linearpatch, none
from lpsteps.recovery.base import Need, RatioParams, RecoveryContext, channel_ratios
from lpsteps.statistics import Statistics

N_LAYERS = 8
HIDDEN_SIZE = 12
SAMPLES = 3


def _statistics(
    identity: np.ndarray[Any, Any], hadamard: np.ndarray[Any, Any] | None = None
) -> Statistics:
    """Statistics with given mean absolute activations ``[samples, boundaries, channels]``."""
    samples, boundaries, hidden_size = identity.shape
    return Statistics(
        basis_name=basis_matrix(hidden_size).name,
        model="tiny",
        tokens=np.full(samples, 8, dtype=np.int32),
        means={"identity": identity, "hadamard": identity if hadamard is None else hadamard},
        pairs=np.ones((samples, boundaries, boundaries)),
    )


@pytest.fixture
def statistics() -> Statistics:
    generator = np.random.default_rng(0)
    shape = (SAMPLES, N_LAYERS + 1, HIDDEN_SIZE)
    return _statistics(generator.uniform(0.5, 3.0, shape), generator.uniform(0.5, 3.0, shape))


def _context(statistics: Statistics | None, *removed: int) -> RecoveryContext:
    return RecoveryContext(Plan.removing(N_LAYERS, removed), HIDDEN_SIZE, statistics)


@pytest.mark.parametrize("basis", ["identity", "hadamard"])
def test_ratios_equal_slow_loops(statistics: Statistics, basis: str) -> None:
    start, end = 2, 8
    means = statistics.means[basis]
    mean_of_ratios = []
    ratio_of_means = []
    for channel in range(HIDDEN_SIZE):
        ratios, sources, targets = [], [], []
        for sample in range(SAMPLES):
            sources.append(means[sample, start, channel])
            targets.append(means[sample, end, channel])
            ratios.append(targets[-1] / sources[-1])
        mean_of_ratios.append(sum(ratios) / SAMPLES)
        ratio_of_means.append(sum(targets) / sum(sources))
    for reduction, expected in [
        ("mean_of_ratios", mean_of_ratios),
        ("ratio_of_means", ratio_of_means),
    ]:
        found = channel_ratios(
            statistics, start, end, basis, RatioParams.model_validate({"reduction": reduction})
        )
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert not np.allclose(mean_of_ratios, ratio_of_means, rtol=1e-3)


def test_the_released_code_averages_ratios_over_a_gap() -> None:
    assert RatioParams().reduction == "mean_of_ratios"
    assert RatioParams().grouping == "per_gap"


def test_silent_channels_keep_finite_positive_ratios() -> None:
    means = np.ones((1, 2, 3))
    means[0, :, 0] = 0.0  # silent on both sides
    means[0, 0, 1] = 0.0  # wakes up, which no scale of nothing can do
    means[0, 1, 2] = 0.0  # falls silent
    epsilon = 1e-3
    found = channel_ratios(_statistics(means), 0, 1, "identity", RatioParams(epsilon=epsilon))
    floor = epsilon * means[0, 0].mean()
    np.testing.assert_allclose(found, [1.0, 1.0, floor])


@given(st.floats(0.01, 100.0), st.sampled_from(["mean_of_ratios", "ratio_of_means"]))
def test_a_stream_that_grows_evenly_gives_a_multiple_of_the_identity(
    factor: float, reduction: Any
) -> None:
    means = np.random.default_rng(1).uniform(0.5, 2.0, (SAMPLES, N_LAYERS + 1, HIDDEN_SIZE))
    means[:, 5] = factor * means[:, 2]
    context = _context(_statistics(means), 2, 3, 4)
    patches = linearpatch.build(context, linearpatch.Params(reduction=reduction))
    (operation,) = patches.gaps[0].operations
    np.testing.assert_allclose(
        operation.weight, factor * np.eye(HIDDEN_SIZE), rtol=1e-12, atol=1e-12 * factor
    )


def test_a_stream_that_does_not_change_gives_the_identity(statistics: Statistics) -> None:
    for means in statistics.means.values():
        means[:, 5] = means[:, 2]
    context = _context(statistics, 2, 3, 4)
    matrix = linearpatch.build(context, linearpatch.Params()).gaps[0].operations[0].weight
    scale = channel_scale.build(context, channel_scale.Params()).gaps[0].operations[0].weight
    np.testing.assert_allclose(matrix, np.eye(HIDDEN_SIZE), atol=1e-6)
    np.testing.assert_allclose(scale, np.ones(HIDDEN_SIZE), atol=1e-6)


@pytest.mark.parametrize("hidden_size", [12, 16, 36, 18])
def test_patch_matrix_rotates_scales_and_rotates_back(hidden_size: int) -> None:
    generator = np.random.default_rng(2)
    basis = basis_matrix(hidden_size).matrix
    ratios = generator.uniform(0.2, 5.0, hidden_size)
    matrix = patch_matrix(basis, ratios)
    rows = generator.normal(size=(7, hidden_size))
    np.testing.assert_allclose(rows @ matrix, ((rows @ basis) * ratios) @ basis.T, rtol=1e-10)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), np.sort(ratios), rtol=1e-10)


def test_linearpatch_uses_the_rotated_statistics_and_keeps_its_ratios(
    statistics: Statistics,
) -> None:
    patches = linearpatch.build(_context(statistics, 2, 3), linearpatch.Params())
    ratios = channel_ratios(statistics, 2, 4, "hadamard", RatioParams())
    (gap,) = patches.gaps
    (operation,) = gap.operations
    assert (gap.start, gap.end, operation.kind) == (2, 4, "matrix")
    assert operation.weight.dtype == np.float64
    np.testing.assert_allclose(np.linalg.eigvalsh(operation.weight), np.sort(ratios), rtol=1e-12)
    np.testing.assert_array_equal(patches.audit["gaps.0.operations.0.d"], ratios)


def test_channel_scale_uses_the_plain_statistics(statistics: Statistics) -> None:
    patches = channel_scale.build(_context(statistics, 2, 3), channel_scale.Params())
    (operation,) = patches.gaps[0].operations
    assert operation.kind == "scale"
    np.testing.assert_array_equal(
        operation.weight, channel_ratios(statistics, 2, 4, "identity", RatioParams())
    )


def test_alpha_multiplies_every_scale_and_leaves_the_ratios_on_record(
    statistics: Statistics,
) -> None:
    context = _context(statistics, 2, 3)
    plain = channel_scale.build(context, channel_scale.Params())
    perturbed = channel_scale.build(context, channel_scale.Params(alpha=0.6))
    weights = [patches.gaps[0].operations[0].weight for patches in (plain, perturbed)]
    np.testing.assert_allclose(weights[1], 0.6 * weights[0], rtol=1e-6)
    name = "gaps.0.operations.0.d"
    np.testing.assert_array_equal(perturbed.audit[name], plain.audit[name])
    with pytest.raises(ValidationError):
        channel_scale.Params(alpha=0)


@pytest.mark.parametrize("method", [channel_scale, linearpatch])
def test_grouping(statistics: Statistics, method: Any) -> None:
    context = _context(statistics, 7, 0, 3, 4, 5)
    per_gap = method.build(context, method.Params())
    per_layer = method.build(context, method.Params(grouping="per_layer"))
    spans = [(0, 1), (3, 6), (7, 8)]
    assert [(gap.start, gap.end) for gap in per_gap.gaps] == spans
    assert [(gap.start, gap.end) for gap in per_layer.gaps] == spans
    assert [len(gap.operations) for gap in per_gap.gaps] == [1, 1, 1]
    assert [len(gap.operations) for gap in per_layer.gaps] == [1, 3, 1]
    # A gap of one layer is the same either way.
    for gap in (0, 2):
        np.testing.assert_array_equal(
            per_gap.gaps[gap].operations[0].weight, per_layer.gaps[gap].operations[0].weight
        )
    # In a longer gap, each operation is the patch of its layer alone, in the order of the layers.
    for position, layer in enumerate((3, 4, 5)):
        alone = method.build(_context(statistics, layer), method.Params())
        np.testing.assert_array_equal(
            per_layer.gaps[1].operations[position].weight, alone.gaps[0].operations[0].weight
        )
    size = HIDDEN_SIZE if method is channel_scale else HIDDEN_SIZE**2
    assert per_gap.parameters == 3 * size
    assert per_layer.parameters == 5 * size


def test_none_patches_nothing() -> None:
    patches = none.build(_context(None, 2, 3), none.Params())
    assert patches.gaps == ()
    assert patches.parameters == 0


@pytest.mark.parametrize("method", [channel_scale, linearpatch])
def test_missing_or_foreign_statistics_are_refused(statistics: Statistics, method: Any) -> None:
    with pytest.raises(LpstepsError, match="--stats: required"):
        method.build(_context(None, 2), method.Params())
    other_model = RecoveryContext(Plan.removing(9, (2,)), HIDDEN_SIZE, statistics)
    with pytest.raises(LpstepsError, match="--stats: 8 layers of 12 channels: the model has 9"):
        method.build(other_model, method.Params())
    other_width = RecoveryContext(Plan.removing(N_LAYERS, (2,)), 16, statistics)
    with pytest.raises(LpstepsError, match="the model has 8 of 16"):
        method.build(other_width, method.Params())


def test_statistics_in_another_basis_are_refused(statistics: Statistics) -> None:
    other = Statistics(
        "random-orthogonal-12-seed-0",
        statistics.model,
        statistics.tokens,
        statistics.means,
        statistics.pairs,
    )
    with pytest.raises(LpstepsError, match=r"random-orthogonal-12-seed-0.*paley-i-12"):
        linearpatch.build(_context(other, 2), linearpatch.Params())


@pytest.mark.parametrize("name", method_names("recovery"))
def test_every_method_states_its_contract(name: str) -> None:
    module = recovery_method(name)
    assert module.TITLE
    assert module.PAPER.startswith("https://") or module.PAPER == ""
    assert all(field.description for field in module.Params.model_fields.values())
    try:
        defaults = module.Params()
    except ValidationError:
        defaults = None  # some parameter has no sensible default
    if defaults is not None:
        assert recovery_needs(module, defaults) <= set(get_args(Need))
    with pytest.raises(ValidationError, match="extra_forbidden"):
        module.Params(no_such_parameter=1)


@pytest.mark.parametrize(
    "params", [{"grouping": "per_head"}, {"reduction": "median"}, {"epsilon": 0}, {"epsilon": -1}]
)
def test_impossible_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        linearpatch.Params(**params)
