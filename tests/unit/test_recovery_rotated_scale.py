"""Rescaling in any basis: against LinearPatch, slow loops and what it promises to restore."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from lpsteps.artifacts import write_json
from lpsteps.calibration import stream_statistics
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.inputs import ModelInput
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.layers import decoder_of
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, PatchSet
from lpsteps.plan import Plan
from lpsteps.recovery import channel_scale, linearpatch
from lpsteps.recovery import rotated_scale as method
from lpsteps.recovery.base import RecoveryContext
from lpsteps.statistics import Statistics

N_LAYERS = 8
HIDDEN_SIZE = 48
# A gap at the start, one of a single layer, and one that reaches the end.
SEVERAL = Plan.removing(N_LAYERS, (0, 1, 3, 5, 6, 7))
ONE_GAP = Plan.removing(N_LAYERS, (3, 4))
BASES = ["identity", "hadamard", "randomised_hadamard", "random_orthogonal", "dct", "pca"]


@pytest.fixture
def model(tiny_model: Any) -> Any:
    return tiny_model("llama", layers=N_LAYERS)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> npt.NDArray[np.int64]:
    # Nine windows in passes of two, the last with a single one; more tokens than channels.
    monkeypatch.setattr(method, "_TOKENS_PER_PASS", 30)
    return np.random.default_rng(1).integers(3, 128, size=(9, 12))


def stream(model: Any, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the stream at each boundary, ``[boundaries, windows, tokens, hidden_size]``."""
    found: list[npt.NDArray[np.float64]] = []
    with torch.no_grad(), watching_boundaries(model, lambda _, x: found.append(x.double().numpy())):
        decoder_of(model).backbone(input_ids=torch.tensor(windows), use_cache=False)
    return np.stack(found)


def statistics_of(model: Any, windows: npt.NDArray[np.int64]) -> Statistics:
    samples = list(stream_statistics(model, windows, basis_matrix(HIDDEN_SIZE)))
    return Statistics(
        basis_name=basis_matrix(HIDDEN_SIZE).name,
        model="tiny",
        tokens=np.array([sample.tokens for sample in samples]),
        means={
            name: np.stack([sample.mean_absolute[name] for sample in samples])
            for name in ("identity", "hadamard")
        },
        pairs=np.stack([sample.cosine for sample in samples]),
    )


def build(model: Any, plan: Plan, windows: npt.NDArray[np.int64], **params: Any) -> PatchSet:
    return method.rescaling_patches(model, plan, windows, method.Params(**params))


def matrices(patches: PatchSet) -> list[list[npt.NDArray[np.float64]]]:
    return [
        [
            np.diag(operation.weight) if operation.kind == "scale" else operation.weight
            for operation in gap.operations
        ]
        for gap in patches.gaps
    ]


@pytest.mark.parametrize("grouping", ["per_gap", "per_layer"])
@pytest.mark.parametrize("reduction", ["mean_of_ratios", "ratio_of_means"])
@pytest.mark.parametrize(
    ("basis", "published"), [("hadamard", linearpatch), ("identity", channel_scale)]
)
def test_two_bases_are_the_published_methods(
    model: Any,
    windows: npt.NDArray[np.int64],
    basis: str,
    published: Any,
    grouping: str,
    reduction: str,
) -> None:
    params = {"grouping": grouping, "reduction": reduction}
    found = build(model, SEVERAL, windows, basis=basis, **params)
    context = RecoveryContext(SEVERAL, HIDDEN_SIZE, statistics_of(model, windows))
    expected = published.build(context, published.Params(**params))
    assert [(gap.start, gap.end) for gap in found.gaps] == [(0, 2), (3, 4), (5, 8)]
    assert found.audit.keys() == expected.audit.keys()
    for name, ratios in expected.audit.items():
        np.testing.assert_allclose(found.audit[name], ratios, rtol=1e-5)
    for gap, other in zip(found.gaps, expected.gaps, strict=True):
        assert (gap.start, gap.end) == (other.start, other.end)
        for operation, same in zip(gap.operations, other.operations, strict=True):
            assert operation.kind == same.kind
            np.testing.assert_allclose(operation.weight, same.weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_equals_slow_loops(
    model: Any, windows: npt.NDArray[np.int64], basis: str
) -> None:
    patches = build(model, SEVERAL, windows, basis=basis, seed=4, grouping="per_layer")
    rows = stream(model, windows)
    for gap_index, (start, end) in enumerate(SEVERAL.gaps):
        flat = rows[start].reshape(-1, HIDDEN_SIZE)
        if basis == "pca":
            H = np.linalg.svd(flat, full_matrices=False)[2].T
        else:
            H = basis_matrix(HIDDEN_SIZE, basis, 4).matrix
        for position, layer in enumerate(range(start, end)):
            d = np.zeros(HIDDEN_SIZE)
            for sample in range(len(windows)):
                for channel in range(HIDDEN_SIZE):
                    source = np.abs(rows[layer, sample] @ H[:, channel]).mean()
                    target = np.abs(rows[layer + 1, sample] @ H[:, channel]).mean()
                    d[channel] += target / source / len(windows)
            expected = sum(d[k] * np.outer(H[:, k], H[:, k]) for k in range(HIDDEN_SIZE))
            found = matrices(patches)[gap_index][position]
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * d.max())
            audit = patches.audit[f"gaps.{gap_index}.operations.{position}.d"]
            np.testing.assert_allclose(np.sort(audit), np.sort(d), rtol=1e-4)
        assert end < 8 or position == 2


def test_the_bases_differ(model: Any, windows: npt.NDArray[np.int64]) -> None:
    plan = Plan.removing(N_LAYERS, (2, 3))
    found = [matrices(build(model, plan, windows, basis=basis))[0][0] for basis in BASES]
    for index, one in enumerate(found):
        for other in found[:index]:
            assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("basis", BASES)
def test_a_gap_of_one_layer_is_the_same_in_every_way(
    model: Any, windows: npt.NDArray[np.int64], basis: str
) -> None:
    plan = Plan.removing(N_LAYERS, (4,))
    first, *others = (
        build(model, plan, windows, basis=basis, grouping=grouping, statistics=statistics)
        for grouping in ("per_gap", "per_layer")
        for statistics in ("original", "sequential")
    )
    for other in others:
        np.testing.assert_array_equal(matrices(other)[0][0], matrices(first)[0][0])


def test_seed_matters_to_random_bases_alone(model: Any, windows: npt.NDArray[np.int64]) -> None:
    plan = Plan.removing(N_LAYERS, (2, 3))
    for basis in BASES:
        first, again, other = (
            matrices(build(model, plan, windows, basis=basis, seed=seed))[0][0]
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        random = basis in ("randomised_hadamard", "random_orthogonal")
        assert (np.abs(first - other).max() > 1e-2) == random


@pytest.mark.parametrize("grouping", ["per_gap", "per_layer"])
@pytest.mark.parametrize("basis", ["hadamard", "identity", "dct"])
def test_sequential_statistics_restore_the_magnitudes_behind_every_gap(
    model: Any, windows: npt.NDArray[np.int64], basis: str, grouping: str
) -> None:
    H = basis_matrix(HIDDEN_SIZE, basis).matrix
    dense = np.abs(stream(model, windows) @ H).mean(axis=(1, 2))
    survivors = [2, 4]
    deviations = {}
    for statistics in ("original", "sequential"):
        patches = build(
            model, SEVERAL, windows, basis=basis, statistics=statistics,
            reduction="ratio_of_means", grouping=grouping,
        )  # fmt: skip
        pruned = copy.deepcopy(model)
        apply_plan(pruned, SEVERAL, patches)
        # A boundary is seen behind its patch.
        found = np.abs(stream(pruned, windows) @ H).mean(axis=(1, 2))
        behind = dense[[*survivors, N_LAYERS]]
        deviations[statistics] = np.abs(found / behind - 1).max(axis=1)
    assert (deviations["sequential"] < 1e-4).all()
    # The dense model's stream enters the first gap only.
    assert deviations["original"][0] < 1e-4
    assert (deviations["original"][1:] > 1e-2).all()


def test_sequential_layers_of_a_gap_read_behind_the_earlier_ones(
    model: Any, windows: npt.NDArray[np.int64]
) -> None:
    plan = Plan.removing(N_LAYERS, (2, 3, 4))
    found = build(model, plan, windows, statistics="sequential", grouping="per_layer").audit
    at = statistics_of(model, windows).means["hadamard"]
    # A scale in a basis scales the magnitudes in it.
    source = at[:, 2]
    for position, layer in enumerate((2, 3, 4)):
        d = (at[:, layer + 1] / source).mean(axis=0)
        np.testing.assert_allclose(found[f"gaps.0.operations.{position}.d"], d, rtol=1e-4)
        source = source * d
    original = build(model, plan, windows, grouping="per_layer").audit
    for name in ("gaps.0.operations.1.d", "gaps.0.operations.2.d"):
        assert np.abs(original[name] / found[name] - 1).max() > 1e-3


def test_sequential_principal_axes_are_those_of_the_patched_stream(
    model: Any, windows: npt.NDArray[np.int64]
) -> None:
    plan = Plan.removing(N_LAYERS, (1, 2, 5, 6))
    patches = build(model, plan, windows, basis="pca", statistics="sequential")
    partial = copy.deepcopy(model)
    first = patches.gaps[0]
    apply_plan(partial, Plan.removing(N_LAYERS, (1, 2)), PatchSet((first,)))
    flat = stream(partial, windows)[3].reshape(-1, HIDDEN_SIZE)
    axes = np.linalg.svd(flat)[2]
    rotated = axes @ matrices(patches)[1][0] @ axes.T
    off_diagonal = rotated - np.diag(np.diag(rotated))
    assert np.abs(off_diagonal).max() < 1e-4 * np.abs(rotated).max()
    of_dense = np.linalg.svd(stream(model, windows)[5].reshape(-1, HIDDEN_SIZE))[2]
    rotated = of_dense @ matrices(patches)[1][0] @ of_dense.T
    assert np.abs(rotated - np.diag(np.diag(rotated))).max() > 1e-2 * np.abs(rotated).max()


@pytest.mark.parametrize("statistics", ["original", "sequential"])
def test_the_model_is_left_alone(
    model: Any, windows: npt.NDArray[np.int64], statistics: str
) -> None:
    before = copy.deepcopy(model.state_dict())
    build(model, SEVERAL, windows, statistics=statistics)
    assert len(model.model.layers) == model.config.num_hidden_layers == N_LAYERS
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, values in model.state_dict().items():
        assert torch.equal(values, before[name])


@pytest.mark.parametrize(
    ("statistics", "plan", "copies"),
    [("original", SEVERAL, 1), ("sequential", SEVERAL, 2), ("sequential", ONE_GAP, 1)],
)
def test_room_for_a_second_model_is_asked_for_where_there_is_one(
    model: Any,
    windows: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
    statistics: Literal["original", "sequential"],
    plan: Plan,
    copies: int,
) -> None:
    asked = []

    def load(self: ModelInput, copies: float = 1, **options: Any) -> Any:
        asked.append(copies)
        return model

    monkeypatch.setattr(ModelInput, "load", load)
    context = RecoveryContext(
        plan, HIDDEN_SIZE, model=ModelInput(Path("none"), Path("none"), windows)
    )
    method.build(context, method.Params(basis="hadamard", statistics=statistics))
    assert asked == [copies]


def test_activations_that_are_not_finite_are_named(
    model: Any, windows: npt.NDArray[np.int64]
) -> None:
    model.model.layers[2].mlp.down_proj.weight[0, 0] = float("inf")
    plan = Plan.removing(N_LAYERS, (4,))
    for basis in ("hadamard", "pca"):
        with pytest.raises(LpstepsError, match="activations are not finite"):
            build(model, plan, windows, basis=basis)


def test_every_family(tiny_model_folder: Any, family: str, windows: npt.NDArray[np.int64]) -> None:
    manifest = tiny_model_folder(family)
    compute = manifest.with_name("compute.json")
    write_json(compute, {"dtype": "float32", "device": "cpu"})
    plan = Plan.removing(6, (1, 4, 5))
    source = ModelInput(manifest.parent, compute, windows)
    context = RecoveryContext(plan, HIDDEN_SIZE, model=source)
    params = method.Params(basis="dct", statistics="sequential", reduction="ratio_of_means")
    patches = method.build(context, params)
    assert all(isinstance(gap, GapPatch) for gap in patches.gaps)
    assert patches.parameters == 2 * HIDDEN_SIZE**2
    dense = source.load()
    pruned = source.load()
    apply_plan(pruned, plan, patches)
    H = basis_matrix(HIDDEN_SIZE, "dct").matrix
    expected, found = (
        np.abs(stream(model, windows) @ H).mean(axis=(1, 2)) for model in (dense, pruned)
    )
    np.testing.assert_allclose(found[[1, 3]], expected[[2, 6]], rtol=1e-4)


@pytest.mark.parametrize("params", [{"basis": "fourier"}, {"statistics": "dense"}, {"seed": -1}])
def test_impossible_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        method.Params(**params)
