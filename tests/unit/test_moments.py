"""Moments of the stream around gaps, against plain matrix products of all rows."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lpsteps.artifacts import read_json, read_tensors, write_json, write_tensors
from lpsteps.errors import LpstepsError
from lpsteps.methods import method_names, recovery_method, recovery_needs
from lpsteps.models.gap_moments import gap_moments, sequential_gap_moments
from lpsteps.models.surgery import apply_plan
from lpsteps.moments import (
    BranchGapMoments,
    BranchMoments,
    GapMoments,
    Moments,
    read_moments,
    write_moments,
)
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan
from lpsteps.recovery.base import RecoveryContext, moments_kind

Rows = npt.NDArray[np.float64]

N_LAYERS = 6
HIDDEN_SIZE = 48
WINDOWS = np.random.default_rng(0).integers(3, 128, (9, 14))
NORMALISED = {"gemma2", "gemma3", "olmo2"}
MLP_OUTPUTS = {"opt": "fc2", "gpt_neox": "mlp.dense_4h_to_h"}
ROOTS = {"opt": "model.decoder", "gpt_neox": "gpt_neox"}


def layers_of(model: Any) -> Any:
    return model.get_submodule(ROOTS.get(model.config.model_type, "model")).layers


def mlp_of(model: Any, layer: int) -> Any:
    name = MLP_OUTPUTS.get(model.config.model_type, "mlp.down_proj")
    return layers_of(model)[layer].get_submodule(name)


def slow_rows(model: Any, windows: npt.NDArray[np.int64]) -> tuple[list[Rows], list[Rows]]:
    """The stream at every boundary and every MLP's output, ``[windows, length, hidden_size]``.

    Read from the outputs of whole forward passes, one window at a time.
    """
    streams: list[list[Rows]] = []
    outputs: list[list[Rows]] = []
    for window in windows:
        stream: list[Any] = []
        output: list[Any] = []

        def first(module: Any, args: Any, kwargs: Any, seen: Any, stream: Any = stream) -> None:
            stream.append(args[0] if args else kwargs["hidden_states"])
            stream.append(seen[0] if isinstance(seen, tuple) else seen)

        def later(module: Any, args: Any, seen: Any, stream: Any = stream) -> None:
            stream.append(seen[0] if isinstance(seen, tuple) else seen)

        def written(module: Any, args: Any, seen: Any, output: Any = output) -> None:
            output.append(seen)

        layers = layers_of(model)
        handles = [layers[0].register_forward_hook(first, with_kwargs=True)]
        handles += [layer.register_forward_hook(later) for layer in list(layers)[1:]]
        handles += [mlp_of(model, n).register_forward_hook(written) for n in range(len(layers))]
        with torch.no_grad():
            model(torch.from_numpy(window)[None])
        for handle in handles:
            handle.remove()
        streams.append([one.double().numpy().reshape(len(window), -1) for one in stream])
        outputs.append([one.double().numpy().reshape(len(window), -1) for one in output])
    return (
        [np.stack(boundary) for boundary in zip(*streams, strict=True)],
        [np.stack(layer) for layer in zip(*outputs, strict=True)],
    )


def slow_moments(
    source: Rows, target: Rows, branch: Rows | None = None, weights: Rows | None = None
) -> dict[str, Any]:
    """All moments of rows ``[windows, length, hidden_size]`` and weights ``[windows, length]``."""
    w = np.ones(source.shape[:2]) if weights is None else weights
    expected = {
        "weight": w.sum(),
        "source_source": np.einsum("wt,wti,wtj->ij", w, source, source),
        "source_target": np.einsum("wt,wti,wtj->ij", w, source, target),
        "target_square": np.einsum("wt,wti,wti->", w, target, target),
        "source_sum": np.einsum("wt,wti->i", w, source),
        "target_sum": np.einsum("wt,wti->i", w, target),
    }
    if branch is not None:
        expected |= {
            "branch_branch": np.einsum("wt,wti,wtj->ij", w, branch, branch),
            "branch_source": np.einsum("wt,wti,wtj->ij", w, branch, source),
            "branch_target": np.einsum("wt,wti,wtj->ij", w, branch, target),
        }
    return expected


def assert_equal(found: Moments, expected: dict[str, Any], tolerance: float = 1e-10) -> None:
    """Equal within a share of the largest entry of each sum."""
    assert {field.name for field in fields(found)} == set(expected)
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(
            getattr(found, name), value, rtol=0, atol=tolerance * scale, err_msg=name
        )


def contents(moments: Moments) -> dict[str, Any]:
    return {field.name: getattr(moments, field.name) for field in fields(moments)}


@pytest.mark.parametrize("batch", [1, 3])
def test_every_family_against_products_of_all_rows(
    tiny_model: Callable[..., Any], family: str, batch: int
) -> None:
    model = tiny_model(family)
    gaps = [(0, 1), (2, 4), (5, N_LAYERS)]
    found = gap_moments(model, WINDOWS, gaps, batch=batch)
    streams, _ = slow_rows(model, WINDOWS)
    # A forward pass of three windows rounds as one of a single window only to float32.
    tolerance = 1e-10 if batch == 1 else 1e-5
    assert [(gap.start, gap.end) for gap in found] == gaps
    for gap in found:
        assert type(gap) is GapMoments
        source, target = streams[gap.start], streams[gap.end]
        assert_equal(gap.fit, slow_moments(source[:8], target[:8]), tolerance)
        assert_equal(gap.heldout, slow_moments(source[8:], target[8:]), tolerance)


def variants(tiny_model: Callable[..., Any], family: str) -> list[Any]:
    """A model of the family; two of GPT-NeoX, with attention and MLP side by side or in turn."""
    options: list[dict[str, Any]] = [{}]
    if family == "gpt_neox":
        options = [{"use_parallel_residual": parallel} for parallel in (True, False)]
    return [tiny_model(family, **option) for option in options]


def test_branches_of_every_family(tiny_model: Callable[..., Any], family: str) -> None:
    gaps = [(1, 2), (3, N_LAYERS)]
    for model in variants(tiny_model, family):
        if family in NORMALISED:
            with pytest.raises(LpstepsError, match=rf"model_type: {family}.*: a norm follows"):
                gap_moments(model, WINDOWS, gaps, branch=True)
            continue
        streams, outputs = slow_rows(model, WINDOWS)
        for gap in gap_moments(model, WINDOWS, gaps, branch=True):
            assert isinstance(gap, BranchGapMoments)
            rows = (streams[gap.start], streams[gap.end], outputs[gap.start - 1])
            assert_equal(gap.fit, slow_moments(*(part[:8] for part in rows)))
            assert_equal(gap.heldout, slow_moments(*(part[8:] for part in rows)))


def test_the_branch_is_added_to_the_stream_as_it_is(
    tiny_model: Callable[..., Any], family: str
) -> None:
    """What a hook adds to the output of the MLP's projection, the stream behind the layer gains."""
    added = torch.linspace(-1.0, 1.0, HIDDEN_SIZE)
    for model in variants(tiny_model, family):
        before = slow_rows(model, WINDOWS[:1])[0][3]
        mlp_of(model, 2).register_forward_hook(lambda module, args, output: output + added)
        after = slow_rows(model, WINDOWS[:1])[0][3]
        gained = np.allclose(after - before, added.numpy(), atol=1e-4)
        assert gained == (family not in NORMALISED)


def test_weights_of_the_inverse_norm(tiny_llama: Any) -> None:
    streams, outputs = slow_rows(tiny_llama, WINDOWS)
    gaps = [(1, 2), (4, 5)]
    for gap in gap_moments(tiny_llama, WINDOWS, gaps, weighting="inverse_norm", branch=True):
        source, target, branch = streams[gap.start], streams[gap.end], outputs[gap.start - 1]
        squares = (source**2).sum(axis=2)
        # The lower one of the two middle tokens of the first batch, which is one window here.
        floor = np.sort(squares[0])[(len(squares[0]) - 1) // 2]
        weights = 1.0 / (squares + floor)
        expected = slow_moments(source[:8], target[:8], branch[:8], weights[:8])
        assert_equal(gap.fit, expected)
        expected = slow_moments(source[8:], target[8:], branch[8:], weights[8:])
        assert_equal(gap.heldout, expected)


def test_tokens_at_the_start_can_be_left_out(tiny_llama: Any) -> None:
    streams, outputs = slow_rows(tiny_llama, WINDOWS)
    (gap,) = gap_moments(tiny_llama, WINDOWS, [(2, 4)], exclude_first=3, branch=True)
    rows = (streams[2][:8, 3:], streams[4][:8, 3:], outputs[1][:8, 3:])
    assert_equal(gap.fit, slow_moments(*rows))
    assert gap.fit.weight == 8 * (WINDOWS.shape[1] - 3)


def test_rows_of_a_model_in_bfloat16(tiny_llama: Any) -> None:
    """Rows have the digits of the model, their products those of float64."""
    model = tiny_llama.to(torch.bfloat16)
    streams, outputs = slow_rows(model, WINDOWS)
    (gap,) = gap_moments(model, WINDOWS, [(2, 4)], branch=True)
    assert_equal(gap.fit, slow_moments(streams[2][:8], streams[4][:8], outputs[1][:8]))


def test_gaps_that_touch(tiny_llama: Any) -> None:
    streams, _ = slow_rows(tiny_llama, WINDOWS)
    first, second = gap_moments(tiny_llama, WINDOWS, [(1, 3), (3, 4)])
    assert_equal(first.fit, slow_moments(streams[1][:8], streams[3][:8]))
    assert_equal(second.fit, slow_moments(streams[3][:8], streams[4][:8]))


@pytest.mark.parametrize(("count", "heldout"), [(2, 1), (15, 1), (16, 2), (24, 3)])
def test_the_last_eighth_is_held_out(tiny_llama: Any, count: int, heldout: int) -> None:
    windows = np.resize(WINDOWS, (count, 4))
    (gap,) = gap_moments(tiny_llama, windows, [(0, 1)], batch=4)
    assert (gap.fit.weight, gap.heldout.weight) == (4 * (count - heldout), 4 * heldout)


def test_a_pass_runs_no_more_than_it_needs(tiny_llama: Any) -> None:
    runs: list[str] = []
    caches: set[Any] = set()

    def ran(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            runs.append(name)
            caches.add(kwargs.get("past_key_values"))

        return hook

    for index, layer in enumerate(tiny_llama.model.layers):
        layer.register_forward_hook(ran(f"{index}"), with_kwargs=True)
    tiny_llama.model.norm.register_forward_hook(ran("norm"), with_kwargs=True)
    tiny_llama.lm_head.register_forward_hook(ran("lm_head"), with_kwargs=True)
    gap_moments(tiny_llama, WINDOWS[:3], [(0, 1), (2, 4)])
    assert runs == ["0", "1", "2", "3"] * 3
    assert caches == {None}


@pytest.mark.parametrize(("branch", "per_gap"), [(False, 2), (True, 5)])
@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_memory_is_a_few_accumulators_whatever_the_text(
    tiny_llama: Any, branch: bool, per_gap: int, count: int
) -> None:
    """Bytes of float64 while the last layer of a pass runs, beside those that were there before."""
    gaps = [(1, 2), (3, 5)]

    def live() -> int:
        tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor]
        storages = [item.untyped_storage() for item in tensors if item.dtype == torch.float64]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    before = live()
    seen: list[int] = []
    tiny_llama.model.layers[4].register_forward_hook(lambda *_: seen.append(live() - before))
    gap_moments(tiny_llama, np.resize(WINDOWS, (count, 8)), gaps, branch=branch)
    # Products; two sums of rows and two of numbers.
    accumulators = len(gaps) * 8 * (per_gap * HIDDEN_SIZE**2 + 2 * HIDDEN_SIZE + 2)
    # What one window of 8 tokens has in front of the gap, and what its MLP has written.
    rows = 2 * 8 * HIDDEN_SIZE * 8
    fit = count - max(1, count // 8)
    assert accumulators <= min(seen) <= max(seen[:fit]) <= accumulators + rows
    # The host's copy of the fitted sums is counted, too, for the device here is the host.
    assert max(seen[fit:]) <= 2 * accumulators + rows


def survivors_of(plan: Plan, end: int) -> list[int]:
    """The layers of `repaired_copy`."""
    return [layer for layer in range(N_LAYERS) if layer >= end or layer not in plan.layers]


def repaired_copy(model: Any, plan: Plan, end: int, patches: Sequence[GapPatch]) -> Any:
    """The model without the plan's layers in front of `end`."""
    copied = copy.deepcopy(model)
    removed = tuple(layer for layer in plan.layers if layer < end)
    apply_plan(copied, Plan.removing(N_LAYERS, removed), PatchSet(tuple(patches)))
    return copied


@pytest.mark.parametrize("gap", [(0, 2), (2, 4), (4, N_LAYERS)])
@pytest.mark.parametrize("weighting", ["uniform", "inverse_norm"])
def test_sequential_moments_of_one_gap_are_those_of_the_dense_model(
    tiny_llama: Any, gap: tuple[int, int], weighting: Any
) -> None:
    options: dict[str, Any] = {"weighting": weighting, "branch": gap[0] > 0, "batch": 2}
    plan = Plan.removing(N_LAYERS, tuple(range(*gap)))
    repaired = repaired_copy(tiny_llama, plan, N_LAYERS, ())
    survivors = survivors_of(plan, N_LAYERS)
    found = sequential_gap_moments(
        tiny_llama, repaired, WINDOWS, gap, survivors=survivors, **options
    )
    (expected,) = gap_moments(tiny_llama, WINDOWS, [gap], **options)
    assert (found.start, found.end) == gap
    assert type(found) is type(expected)
    assert_equal(found.fit, contents(expected.fit))
    assert_equal(found.heldout, contents(expected.heldout))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "qwen3", "gemma3"])
def test_sequential_moments_of_a_second_gap(tiny_model: Callable[..., Any], family: str) -> None:
    """Layers of gemma3 differ in kind, so that one of a wrong number would attend otherwise."""
    dense = tiny_model(family)
    branched = family not in NORMALISED
    plan = Plan.removing(N_LAYERS, (1, 4))
    scale = np.random.default_rng(1).uniform(0.5, 2.0, HIDDEN_SIZE)
    patch = GapPatch(1, 2, (Operation("scale", scale),))
    repaired = repaired_copy(dense, plan, 5, [patch])
    found = sequential_gap_moments(
        dense,
        repaired,
        WINDOWS,
        (4, 5),
        survivors=survivors_of(plan, 5),
        branch=branched,
        exclude_first=2,
    )
    streams, outputs = slow_rows(repaired, WINDOWS)
    # Layer 5 of the dense model is number 3 here; number 2 writes what it reads.
    rows = [streams[3][:, 2:], slow_rows(dense, WINDOWS)[0][5][:, 2:]]
    if branched:
        rows.append(outputs[2][:, 2:])
    assert_equal(found.fit, slow_moments(*(part[:8] for part in rows)))
    assert_equal(found.heldout, slow_moments(*(part[8:] for part in rows)))
    (unrepaired,) = gap_moments(dense, WINDOWS, [(4, 5)])
    assert not np.allclose(found.fit.source_source, unrepaired.fit.source_source, rtol=0.01)


def test_sequential_moments_of_a_model_that_repeats_a_layer(tiny_llama: Any) -> None:
    layers = tiny_llama.model.layers
    layers[4].load_state_dict(layers[3].state_dict())
    plan = Plan.removing(N_LAYERS, (4,))
    repaired = repaired_copy(tiny_llama, plan, 5, ())
    found = sequential_gap_moments(
        tiny_llama, repaired, WINDOWS, (4, 5), survivors=survivors_of(plan, 5)
    )
    (expected,) = gap_moments(tiny_llama, WINDOWS, [(4, 5)])
    assert_equal(found.fit, contents(expected.fit))


@pytest.mark.parametrize("removed", [(1,), (1, 4, 5), (), (0, 1, 2, 3, 5)])
def test_a_repaired_model_without_other_layers_is_refused(
    tiny_llama: Any, removed: tuple[int, ...]
) -> None:
    """Moments of gap [4, 5) of a plan that removes layers 1 and 4."""
    other = copy.deepcopy(tiny_llama)
    plan = Plan.removing(N_LAYERS, removed)
    apply_plan(other, plan)
    message = (
        r"gap: \[4, 5\): the repaired model of . layers, which are \[.*\] of the dense one, must"
    )
    for survivors in (survivors_of(plan, N_LAYERS), [0, 2, 3, 5][: len(removed) + 3]):
        with pytest.raises(LpstepsError, match=message):
            sequential_gap_moments(tiny_llama, other, WINDOWS, (4, 5), survivors=survivors)


@pytest.mark.parametrize(
    ("gaps", "options", "message"),
    [
        ([(0, 2)], {"branch": True}, "layer 0 is removed: no MLP is left in front"),
        ([(2, 2)], {}, r"gaps: \[2, 2\): gaps must be disjoint and ascend from layer 0 on"),
        ([(2, 7)], {}, r"gaps: \[2, 7\): .* the model has 6 layers"),
        ([(1, 3), (2, 4)], {}, r"gaps: \[2, 4\): .* ascend from layer 3 on"),
        ([(-1, 3)], {}, r"gaps: \[-1, 3\)"),
        ([(1, 3)], {"exclude_first": 14}, "exclude_first: 14: must lie in 0 to 13"),
        ([(1, 3)], {"exclude_first": -1}, "exclude_first: -1: must lie in 0 to 13"),
    ],
)
def test_impossible_requests(
    tiny_llama: Any, gaps: list[tuple[int, int]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LpstepsError, match=message):
        gap_moments(tiny_llama, WINDOWS, gaps, **options)


def test_one_window_is_not_enough(tiny_llama: Any) -> None:
    with pytest.raises(LpstepsError, match="windows: 1: one is held out"):
        gap_moments(tiny_llama, WINDOWS[:1], [(1, 2)])


def test_activations_that_are_not_finite(tiny_llama: Any) -> None:
    tiny_llama.model.layers[2].mlp.down_proj.weight[0, 0] = torch.inf
    gap_moments(tiny_llama, WINDOWS, [(1, 2)])
    with pytest.raises(LpstepsError, match="not finite in float32; set dtype: float32"):
        gap_moments(tiny_llama, WINDOWS, [(1, 3)])


def test_the_model_is_as_before(tiny_llama: Any) -> None:
    hooks = [len(module._forward_hooks) for module in tiny_llama.modules()]
    pre_hooks = [len(module._forward_pre_hooks) for module in tiny_llama.modules()]
    gap_moments(tiny_llama, WINDOWS, [(1, 2)], branch=True)
    with pytest.raises(LpstepsError):
        gap_moments(tiny_llama, WINDOWS, [(0, 2)], branch=True)
    assert [len(module._forward_hooks) for module in tiny_llama.modules()] == hooks
    assert [len(module._forward_pre_hooks) for module in tiny_llama.modules()] == pre_hooks


def random_moments(seed: int, branch: bool = False) -> tuple[Moments, Rows, Rows, Rows]:
    generator = np.random.default_rng(seed)
    source, target, output = generator.normal(size=(3, 2, 5, 4))
    weights = generator.uniform(0.1, 2.0, (2, 5))
    if branch:
        moments: Moments = BranchMoments(**slow_moments(source, target, output, weights))
    else:
        moments = Moments(**slow_moments(source, target, weights=weights))
    return moments, source, target, weights


@pytest.mark.parametrize("with_shift", [False, True])
def test_the_error_of_an_affine_map(with_shift: bool) -> None:
    moments, source, target, weights = random_moments(0)
    generator = np.random.default_rng(1)
    matrix = generator.normal(size=(4, 4))
    shift = generator.normal(size=4) if with_shift else None
    residuals = source @ matrix + (0.0 if shift is None else shift) - target
    expected = (weights[:, :, None] * residuals**2).sum()
    assert moments.error(matrix, shift) == pytest.approx(expected, rel=1e-12)


def test_the_error_of_a_perfect_map_is_never_negative() -> None:
    for seed in range(20):
        _, source, _, _ = random_moments(seed)
        matrix = np.random.default_rng(seed).normal(size=(4, 4))
        moments = Moments(**slow_moments(source, source @ matrix))
        assert 0.0 <= moments.error(matrix) < 1e-10


@pytest.mark.parametrize("branch", [False, True])
def test_the_sum_of_moments(branch: bool) -> None:
    first, second = random_moments(0, branch)[0], random_moments(1, branch)[0]
    total = first + second
    assert type(total) is type(first)
    for name, value in contents(total).items():
        np.testing.assert_array_equal(value, getattr(first, name) + getattr(second, name))


def stored(folder: Path, *, branch: bool = False) -> Path:
    """Write moments of two gaps and return their manifest."""
    parts = [random_moments(seed, branch)[0] for seed in range(4)]
    gap = BranchGapMoments if branch else GapMoments
    moments = [gap(1, 2, *parts[:2]), gap(4, 6, *parts[2:])]  # type: ignore[arg-type]
    kind: Any = "branch" if branch else "weighted-stream"
    manifest = folder / f"{kind}.manifest.json"
    write_moments(folder / f"{kind}.safetensors", manifest, moments, kind=kind)
    return manifest


@pytest.mark.parametrize("branch", [False, True])
def test_moments_survive_a_file(tmp_path: Path, branch: bool) -> None:
    manifest = stored(tmp_path, branch=branch)
    found = read_moments(manifest, "branch" if branch else "weighted-stream")
    assert [(gap.start, gap.end) for gap in found] == [(1, 2), (4, 6)]
    assert {type(gap) for gap in found} == {BranchGapMoments if branch else GapMoments}
    parts = [part for gap in found for part in (gap.fit, gap.heldout)]
    for seed, part in enumerate(parts):
        expected = random_moments(seed, branch)[0]
        assert type(part) is type(expected)
        assert isinstance(part.weight, float)
        assert isinstance(part.target_square, float)
        for name, value in contents(expected).items():
            np.testing.assert_array_equal(getattr(part, name), value)


def test_equal_moments_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = stored(tmp_path), stored(tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    tensors = [path.with_name("weighted-stream.safetensors") for path in (first, second)]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


def change_tensor(folder: Path) -> None:
    path = folder / "weighted-stream.safetensors"
    tensors = read_tensors(path)
    tensors["gaps.1.heldout.source_sum"][0] += 1e-9
    write_tensors(path, tensors)


def drop_everywhere(folder: Path) -> None:
    path, manifest = (
        folder / "weighted-stream.safetensors",
        folder / "weighted-stream.manifest.json",
    )
    tensors, content = read_tensors(path), read_json(manifest)
    del tensors["gaps.0.fit.weight"], content["tensors"]["gaps.0.fit.weight"]
    write_tensors(path, tensors)
    write_json(manifest, content)


def add_key(folder: Path) -> None:
    manifest = folder / "weighted-stream.manifest.json"
    write_json(manifest, read_json(manifest) | {"tensor": {}})


def remove_tensors(folder: Path) -> None:
    (folder / "weighted-stream.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_tensor, r"gaps.1.heldout.source_sum: not the tensor that .* lists"),
        (drop_everywhere, r"manifest.json: gaps.0.fit.weight: no such tensor"),
        (add_key, r"manifest.json: tensor: unknown key"),
        (remove_tensors, r"weighted-stream.safetensors: no such file"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    manifest = stored(tmp_path)
    damage(tmp_path)
    with pytest.raises(LpstepsError, match=message):
        read_moments(manifest, "weighted-stream")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LpstepsError, match=r"kind: weighted-stream: must be stream"):
        read_moments(stored(tmp_path), "stream")


def test_a_recovery_gets_the_moments_of_its_plan(tmp_path: Path) -> None:
    moments = read_moments(stored(tmp_path), "weighted-stream")
    plan = Plan.removing(7, (1, 4, 5))
    assert RecoveryContext(plan, 4, moments=moments).needed_moments() is moments
    with pytest.raises(LpstepsError, match="--moments: required"):
        RecoveryContext(plan, 4).needed_moments()
    with pytest.raises(
        LpstepsError, match=r"gaps \[\[1, 2\], \[4, 6\]\]: .*\[\[1, 2\], \[4, 5\]\]"
    ):
        RecoveryContext(Plan.removing(7, (1, 4)), 4, moments=moments).needed_moments()
    with pytest.raises(LpstepsError, match="--moments: 4 channels: the model has 8"):
        RecoveryContext(plan, 8, moments=moments).needed_moments()
    with pytest.raises(LpstepsError, match="--windows and --compute: required"):
        RecoveryContext(plan, 4).needed_model()


@pytest.mark.parametrize("name", method_names("recovery"))
def test_a_recovery_states_what_it_needs(name: str) -> None:
    method = recovery_method(name)
    assert hasattr(method, "NEEDS") != hasattr(method, "needs")
    needs = recovery_needs(method, method.Params())
    kinds = {need for need in needs if need.endswith("-moments")}
    assert needs - kinds <= {"statistics", "model"}
    assert kinds <= {"stream-moments", "weighted-stream-moments", "branch-moments"}
    assert len(kinds) <= 1
    assert [f"{moments_kind(needs)}-moments"] == list(kinds) or moments_kind(needs) is None
