"""The branch refit against a slow reference that runs the whole pruned model for every projection.

The reference knows nothing of streams that move side by side: for each projection it prunes a fresh
copy of the model, applies everything found so far, runs it on all windows with hooks, and solves
the stacked rows with `numpy.linalg.lstsq`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lpsteps import jobs, methods
from lpsteps.config import load_config
from lpsteps.errors import LpstepsError
from lpsteps.inputs import ModelInput
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.refit import Refit, RefitSettings, _NormalEquations, refit
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, PatchSet, read_patches, write_patches
from lpsteps.plan import Plan
from lpsteps.recovery import branch_refit
from lpsteps.recovery.base import RecoveryContext

C = 48
RIDGE, PATCH_RIDGE = 0.3, 1e-4
Rows = np.ndarray[Any, Any]


def _windows(count: int = 12, length: int = 40) -> Rows:
    return np.random.default_rng(5).integers(2, 128, (count, length))


def _patch_set(plan: Plan, done: Refit) -> PatchSet:
    gaps = zip(plan.gaps, done.patches, strict=False)
    return PatchSet(
        tuple(GapPatch(start, end, (Operation("matrix", m),)) for (start, end), m in gaps),
        replacements=done.weights,
    )


def _boundary_rows(model: Any, windows: Rows, boundary: int, *, patched: bool = False) -> Rows:
    """Rows that the module behind a boundary reads, before or behind a patch of its own."""
    decoder = decoder_of(model)
    found: list[Rows] = []

    def keep(_: Any, positional: Any, named: Any) -> None:
        hidden = positional[0] if positional else named["hidden_states"]
        if hidden.dtype == torch.bfloat16:  # which numpy lacks
            hidden = hidden.float()
        found.append(hidden.reshape(-1, C).numpy().copy())

    entrance = [*decoder.layers, decoder.norm][boundary]
    handle = entrance.register_forward_pre_hook(keep, with_kwargs=True, prepend=not patched)
    with torch.no_grad():
        model(torch.from_numpy(windows))
    handle.remove()
    return found[0]


def _read_rows(model: Any, windows: Rows, projection: Any) -> Rows:
    found: list[Rows] = []
    handle = projection.register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0].reshape(-1, projection.in_features).numpy().copy())
    )
    with torch.no_grad():
        model(torch.from_numpy(windows))
    handle.remove()
    return found[0]


def _ridge(inputs: Rows, outputs: Rows, ridges: Rows) -> Rows:
    stacked = np.vstack([inputs, np.diag(np.sqrt(ridges))])
    zeros = np.zeros((len(ridges), outputs.shape[1]))
    return np.linalg.lstsq(stacked, np.vstack([outputs, zeros]), rcond=None)[0]


def _mean_square(rows: Rows) -> float:
    return float((rows**2).sum() / rows.shape[1])


def _ordinary(rows: Rows) -> Rows:
    squares = (rows**2).sum(axis=1)
    # torch's median is the lower of two middle values.
    return squares <= 10.0 * np.sort(squares)[(len(squares) - 1) // 2]


def _reference(model: Any, windows: Rows, plan: Plan, in_front: bool) -> Refit:
    names = {module: name for name, module in decoder_of(model).backbone.named_modules()}
    done = Refit()

    def pruned() -> Any:
        repaired = copy.deepcopy(model)
        apply_plan(repaired, plan, _patch_set(plan, done))
        return repaired

    ends = dict(plan.gaps)
    refitting = False
    survivors = [layer for layer in range(plan.n_layers) if layer not in plan.layers]
    for position, layer in enumerate([None, *survivors]):
        index = position - 1
        end = ends.get(0 if layer is None else layer + 1)
        target = _boundary_rows(model, windows, (layer or 0) + 1 if end is None else end)
        ordinary = _ordinary(target)
        if layer is not None:
            outputs = branch_outputs(decoder_of(model).layers[layer])
            if end is not None and in_front:
                repaired = pruned()
                mlp = branch_outputs(decoder_of(repaired).layers[index]).mlp
                read = _read_rows(repaired, windows, mlp) * ordinary[:, None]
                rows = _boundary_rows(repaired, windows, index + 1)
                ridges = np.repeat(
                    [PATCH_RIDGE * _mean_square(rows), RIDGE * _mean_square(read)],
                    [C, read.shape[1]],
                )
                solution = _ridge(np.hstack([rows, read]), target - rows, ridges)
                change = solution[C:] @ np.linalg.inv(np.eye(C) + solution[:C])
                done.weights[f"{names[outputs.mlp]}.weight"] = outputs.mlp.weight.numpy() + change.T
            elif end is None and refitting:
                for kind in ("attention", "mlp"):
                    repaired = pruned()
                    projection = getattr(branch_outputs(decoder_of(repaired).layers[index]), kind)
                    read = _read_rows(repaired, windows, projection)[ordinary]
                    missing = (target - _boundary_rows(repaired, windows, index + 1))[ordinary]
                    ridges = np.full(read.shape[1], RIDGE * _mean_square(read))
                    original = getattr(outputs, kind)
                    done.weights[f"{names[original]}.weight"] = (
                        original.weight.numpy() + _ridge(read, missing, ridges).T
                    )
        if end is not None:
            rows = _boundary_rows(pruned(), windows, index + 1)
            ridges = np.full(C, PATCH_RIDGE * _mean_square(rows))
            done.patches.append(np.eye(C) + _ridge(rows, target - rows, ridges))
            refitting = True
    return done


PLANS = {
    "one gap": (2, 3),
    "two gaps": (1, 4),
    "gap at the start": (0, 1),
    "gap at the end": (4, 5),
    "gaps with one layer between": (1, 3),
}


@pytest.mark.parametrize("layers", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("in_front", [True, False])
def test_refit_is_what_the_whole_model_says(
    tiny_model: Any, layers: tuple[int, ...], in_front: bool
) -> None:
    model = tiny_model("llama").double()
    plan = Plan.removing(6, layers)
    windows = _windows()
    settings = RefitSettings(RIDGE, PATCH_RIDGE, in_front=in_front, batch=5)
    found = refit(model, windows, plan, settings)
    expected = _reference(model, windows, plan, in_front)
    for patch, reference in zip(found.patches, expected.patches, strict=True):
        np.testing.assert_allclose(patch, reference, rtol=0, atol=2e-6 * np.abs(reference).max())
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        scale = np.abs(weight).max()
        np.testing.assert_allclose(found.weights[name], weight, rtol=0, atol=2e-6 * scale)


def test_massive_tokens_count_for_the_patch_only(tiny_model: Any) -> None:
    model = tiny_model("llama").double()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] *= 3000.0
    windows = _windows()
    windows[:, 0] = 7
    plan = Plan.removing(6, (2, 3))
    ordinary = _ordinary(_boundary_rows(model, windows, 4)).reshape(windows.shape)
    assert not ordinary[:, 0].any() and ordinary[windows != 7].all()
    found = refit(model, windows, plan, RefitSettings(RIDGE, PATCH_RIDGE, batch=5))
    expected = _reference(model, windows, plan, in_front=True)
    for name, weight in expected.weights.items():
        scale = np.abs(weight).max()
        np.testing.assert_allclose(found.weights[name], weight, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(found.patches[0], expected.patches[0], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt_neox", {"use_parallel_residual": True}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("opt", {}),
        ("phi3", {}),
        ("qwen2", {}),
        ("qwen3", {}),
    ],
    ids=["gpt_neox", "gpt_neox in turn", "opt", "phi3", "qwen2", "qwen3"],
)
def test_families_with_plain_branches(
    tiny_model: Any, family: str, options: dict[str, Any]
) -> None:
    model = tiny_model(family, **options).double()
    plan = Plan.removing(6, (2, 3))
    found = refit(model, _windows(), plan, RefitSettings(RIDGE, PATCH_RIDGE))
    expected = _reference(model, _windows(), plan, in_front=True)
    for name, weight in expected.weights.items():
        scale = np.abs(weight).max()
        np.testing.assert_allclose(found.weights[name], weight, rtol=0, atol=2e-6 * scale)
    np.testing.assert_allclose(found.patches[0], expected.patches[0], atol=2e-6)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2"])
def test_families_that_normalise_their_branches_are_refused(tiny_model: Any, family: str) -> None:
    with pytest.raises(LpstepsError, match="normalises what its branches write"):
        refit(tiny_model(family), _windows(), Plan.removing(6, (2,)), RefitSettings(1.0, 1e-6))


def test_only_the_layers_asked_for_are_refitted(tiny_model: Any) -> None:
    plan = Plan.removing(6, (1, 2))
    settings = RefitSettings(1.0, 1e-6, in_front=False, behind=1)
    found = refit(tiny_model(), _windows(), plan, settings)
    assert sorted(found.weights) == [
        "layers.3.mlp.down_proj.weight",
        "layers.3.self_attn.o_proj.weight",
    ]


def test_what_a_patch_makes_up_for_is_not_rounded_to_bfloat16(tiny_model: Any) -> None:
    model = tiny_model().to(torch.bfloat16)
    settings = RefitSettings(1.0, PATCH_RIDGE, in_front=False, behind=0)
    found = refit(model, _windows(), Plan.removing(6, (2, 3)), settings)
    before, after = (_boundary_rows(model, _windows(), boundary) for boundary in (2, 4))
    rows, missing = before.astype(np.float64), after.astype(np.float64) - before
    gram = rows.T @ rows
    ridge = PATCH_RIDGE * np.trace(gram) / C * np.eye(C)
    expected = np.eye(C) + np.linalg.solve(gram + ridge, rows.T @ missing)
    np.testing.assert_allclose(found.patches[0], expected, atol=1e-6)


def test_the_repaired_stream_comes_nearer_and_the_dense_model_stays(tiny_model: Any) -> None:
    model = tiny_model()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    found = refit(model, _windows(), Plan.removing(6, (2, 3)), RefitSettings(0.3, 1e-6))
    assert sorted(found.errors) == ["gaps.0", "layers.4", "layers.5"]
    for (before_refit, _), (after_refit, massive) in found.errors.values():
        assert after_refit < before_refit
        assert massive == 0.0
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())


def test_text_too_short_to_fit_the_patch(tiny_model: Any) -> None:
    with pytest.raises(LpstepsError, match="ridge: too small for this text"):
        refit(tiny_model(), _windows(1, 8), Plan.removing(6, (2,)), RefitSettings(1.0, 0.0))


def test_method_stores_one_matrix_per_gap(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelInput, "load", lambda _: tiny_model())
    source = ModelInput(tmp_path, tmp_path / "compute.json", _windows())
    context = RecoveryContext(Plan.removing(6, (1, 2, 4)), C, model=source)
    patches = branch_refit.build(context, branch_refit.Params(behind=1))
    assert patches.parameters == 2 * C * C
    assert not patches.foldable
    assert sorted(patches.replacements) == [
        "layers.0.mlp.down_proj.weight",
        "layers.3.mlp.down_proj.weight",
        "layers.5.mlp.down_proj.weight",
        "layers.5.self_attn.o_proj.weight",
    ]
    assert patches.audit["gaps.0.relative_errors"].shape == (2, 2)


def _relative_errors(dense: Rows, repaired: Rows) -> list[float]:
    """Squared distance relative to the square of the dense rows, ordinary and massive ones."""
    return [
        float(((repaired - dense)[tokens] ** 2).sum() / (dense[tokens] ** 2).sum())
        for tokens in (_ordinary(dense), ~_ordinary(dense))
    ]


def test_a_stored_result_in_bfloat16_has_the_errors_of_its_audit(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the files, applied as for a score: weights in bfloat16 and patches in float32."""

    def dense_model() -> Any:
        model = tiny_model()
        model.get_input_embeddings().weight[7] *= 300.0
        return model.to(torch.bfloat16)

    windows = _windows()
    windows[:, 0] = 7
    plan = Plan.removing(6, (1, 3))
    monkeypatch.setattr(ModelInput, "load", lambda _: dense_model())
    source = ModelInput(tmp_path, tmp_path / "compute.json", windows)
    built = branch_refit.build(
        RecoveryContext(plan, C, model=source),
        # As many windows per pass as the reference runs, for the same rounding.
        branch_refit.Params(ridge=RIDGE, patch_ridge=PATCH_RIDGE, batch=len(windows)),
    )
    tensors, manifest = tmp_path / "patch.safetensors", tmp_path / "patch.manifest.json"
    write_patches(tensors, manifest, built, recovery="branch-refit")
    patches = read_patches(manifest)
    # Boundaries of the dense and of the pruned model that belong together.
    places = {"gaps.0": (2, 1), "gaps.1": (4, 2), "layers.4": (5, 3), "layers.5": (6, 4)}
    assert {name.removesuffix(".relative_errors") for name in patches.audit} == set(places)

    repaired = dense_model()
    apply_plan(repaired, plan, patches)
    assert repaired.dtype == torch.bfloat16
    for place, boundaries in places.items():
        streams = [
            _boundary_rows(model, windows, boundary, patched=True).astype(np.float64)
            for model, boundary in zip((dense_model(), repaired), boundaries, strict=True)
        ]
        errors = _relative_errors(*streams)
        before, after = patches.audit[f"{place}.relative_errors"]
        np.testing.assert_allclose(errors, after, rtol=2e-2, err_msg=place)
        # More than the tolerance away from what the refit changed.
        assert errors[0] < 0.9 * before[0], place


def test_equations_are_solved_without_another_matrix_of_their_size() -> None:
    inputs, outputs, tokens = 300, 8, 400
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, inputs, generator=random, dtype=torch.float64)
    targets = torch.randn(tokens, outputs, generator=random, dtype=torch.float64)
    ridges = torch.linspace(1.0, 5.0, inputs, dtype=torch.float64)
    equations = _NormalEquations(inputs, outputs, torch.device("cpu"))
    equations.add(rows, targets)
    with torch.profiler.profile(profile_memory=True) as profile:
        found = equations.solve(ridges, "ridge")
    taken = max(event.cpu_memory_usage for event in profile.events())
    assert 8 * inputs * outputs <= taken < 8 * inputs**2 / 2
    expected = _ridge(rows.numpy(), targets.numpy(), ridges.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", ["smollm2-135m", "llama-2-13b"])
def test_a_job_asks_for_the_memory_of_the_largest_regression(
    size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    config = load_config(yaml.safe_load(Path("config/beyond.yaml").read_text()), ["beyond.yaml"])
    hidden, intermediate = {"smollm2-135m": (576, 1536), "llama-2-13b": (5120, 13824)}[size]
    more = jobs.build_patch_mb(config, size, "wikipedia", 5, "branch-refit") - 2 * jobs.memory_mb(
        config, size
    )
    gram = 8 * (hidden + intermediate) ** 2 / 1e6
    # The intermediate size is not in the config, only a bound of it.
    assert 1.2 * gram < more < 4 * gram
    for without in ("lora", "replaceme"):
        method, _ = jobs.recovery_method(config, without)
        assert methods.working_bytes(method, hidden, intermediate) == 0
