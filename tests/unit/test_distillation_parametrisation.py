from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lpsteps.distillation.parametrisation import TrainablePatches
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.models.patch import Patch
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan

HIDDEN_SIZE = 48
PLAN = Plan.removing(8, (2, 3, 6))
RANDOM = np.random.default_rng(0)
H = basis_matrix(HIDDEN_SIZE).matrix


def normal(*shape: int) -> Any:
    return RANDOM.standard_normal(shape) / np.sqrt(HIDDEN_SIZE)


def spread(count: int) -> Any:
    return RANDOM.uniform(0.5, 2.0, count)


ROTATION = Operation("rotation", 1.5 * np.linalg.qr(normal(HIDDEN_SIZE, HIDDEN_SIZE))[0])
SCALES = Operation("scale", spread(HIDDEN_SIZE))
LINEAR_PATCH = Operation("matrix", (H * spread(HIDDEN_SIZE)) @ H.T)
ANY_LINEAR = (
    Operation("scalar", np.array([1.2])),
    SCALES,
    Operation("matrix", normal(HIDDEN_SIZE, HIDDEN_SIZE)),
    ROTATION,
    Operation("low_rank", normal(2, HIDDEN_SIZE, 3)),
)
ANY = (
    *ANY_LINEAR,
    Operation("shift", normal(HIDDEN_SIZE)),
    Operation("gated_mlp", normal(3, HIDDEN_SIZE, 10)),
)

# Parametrisation, operations of the second gap (the first has none), names of its parameters.
FITTING = [
    ("full", ANY_LINEAR, ["matrix"]),
    ("symmetric", (SCALES,), ["matrix"]),
    ("symmetric", (LINEAR_PATCH,), ["matrix"]),
    ("diagonal", (LINEAR_PATCH, LINEAR_PATCH), ["scales"]),
    ("low_rank", ANY, ["u", "v"]),
    ("scalar", ANY, ["factor"]),
    ("own", ANY, [f"chain.weights.{index}" for index in range(len(ANY))]),
]


def build(
    parametrisation: str, operations: tuple[Operation, ...], seed: int = 0, **start: Any
) -> TrainablePatches:
    settings = DistillationSettings.model_validate({"parametrisation": parametrisation, "rank": 4})
    gaps = (GapPatch(6, 7, operations),) if operations else ()
    return TrainablePatches(PatchSet(gaps, **start), PLAN, HIDDEN_SIZE, settings, seed)


def rows() -> torch.Tensor:
    return torch.randn(5, 7, HIDDEN_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("parametrisation", "operations", "names"), FITTING)
def test_training_starts_at_the_start(
    parametrisation: str, operations: tuple[Operation, ...], names: list[str]
) -> None:
    patches = build(parametrisation, operations)
    torch.testing.assert_close(patches(rows(), 4), rows(), rtol=1e-5, atol=1e-5)
    expected = Patch(GapPatch(6, 7, operations))(rows())
    torch.testing.assert_close(patches(rows(), 7), expected, rtol=1e-4, atol=1e-5)
    assert patches(rows(), 6).equal(rows())
    first = [] if parametrisation == "own" else [f"gaps.0.{name}" for name in names]
    assert list(patches.trained) == first + [f"gaps.1.{name}" for name in names]
    assert all(parameter.requires_grad for parameter in patches.trained.values())


@pytest.mark.parametrize(("parametrisation", "operations", "names"), FITTING)
def test_the_patch_set_computes_what_was_trained(
    parametrisation: str, operations: tuple[Operation, ...], names: list[str]
) -> None:
    patches = build(parametrisation, operations)
    with torch.no_grad():
        for parameter in patches.trained.values():
            parameter += 0.1 * torch.rand_like(parameter)
    patch_set = patches.patch_set()
    spans = [(2, 4), (6, 7)]
    assert [(gap.start, gap.end) for gap in patch_set.gaps] == spans[parametrisation == "own" :]
    outputs = [patches(rows(), gap.end).detach() for gap in patch_set.gaps]
    with torch.no_grad():
        for parameter in patches.trained.values():
            parameter.zero_()
    for gap, output in zip(patch_set.gaps, outputs, strict=True):
        torch.testing.assert_close(Patch(gap)(rows()), output, rtol=1e-4, atol=1e-5)
        assert not Patch(gap)(rows()).allclose(rows(), atol=1e-2)


@pytest.mark.parametrize("parametrisation", ["scalar", "own"])
@pytest.mark.parametrize("factor", [-0.5, 0.0])
def test_a_factor_that_has_left_the_positive_numbers_is_a_scale(
    parametrisation: str, factor: float
) -> None:
    scalar = Operation("scalar", np.array([1.2]))
    patches = build(parametrisation, (scalar,))
    (name,) = (name for name in patches.trained if name.startswith("gaps.1."))
    with torch.no_grad():
        patches.trained[name].fill_(factor)
    patch = patches.patch_set().gaps[-1]
    assert patch.operations[-1].kind == "scale"
    expected = rows() * factor * (1.2 if parametrisation == "scalar" else 1.0)
    torch.testing.assert_close(Patch(patch)(rows()), expected)
    torch.testing.assert_close(patches(rows(), 7), expected)


def test_a_symmetric_patch_stays_symmetric() -> None:
    patches = build("symmetric", (LINEAR_PATCH,))
    with torch.no_grad():
        patches.trained["gaps.1.matrix"] += torch.randn(HIDDEN_SIZE, HIDDEN_SIZE)
    (operation,) = patches.patch_set().gaps[1].operations
    np.testing.assert_array_equal(operation.weight, operation.weight.T)


def test_a_diagonal_patch_stays_diagonal_in_the_basis() -> None:
    patches = build("diagonal", (LINEAR_PATCH,))
    with torch.no_grad():
        patches.trained["gaps.1.scales"] += 1.0
    (operation,) = patches.patch_set().gaps[1].operations
    expected = LINEAR_PATCH.weight + np.eye(HIDDEN_SIZE)
    np.testing.assert_allclose(operation.weight, expected, atol=1e-6)


def test_a_low_rank_update_is_seeded() -> None:
    first, same, other = (build("low_rank", ANY, seed) for seed in (0, 0, 1))
    assert first.trained["gaps.1.u"].equal(same.trained["gaps.1.u"])
    assert not first.trained["gaps.1.u"].equal(other.trained["gaps.1.u"])
    assert not first.trained["gaps.1.u"].equal(first.trained["gaps.0.u"])
    assert first.trained["gaps.1.u"].std().item() == pytest.approx(HIDDEN_SIZE**-0.5, rel=0.2)


@pytest.mark.parametrize("parametrisation", ["full", "diagonal", "low_rank", "own"])
def test_bfloat16_rows_are_patched_in_float32(parametrisation: str) -> None:
    patches = build(parametrisation, (LINEAR_PATCH,))
    narrow = rows().bfloat16()
    expected = patches(narrow.float(), 7).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = patches(narrow, 7)
    assert output.dtype == torch.bfloat16
    assert output.equal(expected)


@pytest.mark.parametrize(
    ("parametrisation", "operations", "message"),
    [
        ("full", ANY[-2:-1], r"full: the start's gap \[6, 7\) has a shift.*own, low_rank"),
        ("symmetric", ANY[-1:], r"symmetric: the start's gap \[6, 7\) has a gated_mlp"),
        ("symmetric", (ROTATION,), r"symmetric: the start's gap \[6, 7\) deviates by .*use full"),
        ("diagonal", (SCALES,), r"diagonal: the start's gap \[6, 7\) deviates by .*use full"),
        ("own", (), r"own: the start has no operation and no restored layer.*use full"),
    ],
)
def test_a_start_of_another_form_is_refused_with_the_way_out(
    parametrisation: str, operations: tuple[Operation, ...], message: str
) -> None:
    with pytest.raises(LpstepsError, match=f"^parametrisation: {message}"):
        build(parametrisation, operations)


def test_a_rotation_may_become_any_matrix() -> None:
    patches = build("own", (ROTATION,))
    with torch.no_grad():
        patches.trained["gaps.1.chain.weights.0"] += torch.randn(HIDDEN_SIZE, HIDDEN_SIZE)
    (operation,) = patches.patch_set().gaps[0].operations
    assert operation.kind == "matrix"


def test_restored_layers_are_trained_only_as_ones_own() -> None:
    replacements = {
        "layers.2.mlp.down_proj.weight": normal(4, 4),
        "layers.2.input_layernorm.weight": normal(4),
        "layers.1.mlp.down_proj.weight": normal(4, 4),
    }
    own = build("own", (), replacements=replacements, restored=(2,))
    names = ["layers.2.input_layernorm.weight", "layers.2.mlp.down_proj.weight"]
    assert list(own.trained) == names
    with torch.no_grad():
        own.trained[names[0]] += 1.0
    patch_set = own.patch_set()
    assert patch_set.gaps == ()
    assert patch_set.restored == (2,)
    expected = {**replacements, names[0]: replacements[names[0]] + 1.0}
    for name in replacements:
        np.testing.assert_allclose(patch_set.replacements[name], expected[name], rtol=1e-6)
    full = build("full", (), replacements=replacements, restored=(2,))
    assert list(full.trained) == ["gaps.0.matrix", "gaps.1.matrix"]
    assert full.patch_set().replacements == replacements
