"""Trained repairs against plain training loops, and their effect on the model."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from lpsteps.artifacts import write_json
from lpsteps.errors import LpstepsError
from lpsteps.inputs import ModelInput
from lpsteps.models.gap_pass import read_gap
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, PatchSet, read_patches, write_patches
from lpsteps.plan import Plan
from lpsteps.recovery import lora, replaceme_cosine, streamline_ffn, streamline_layer
from lpsteps.recovery.base import RecoveryContext
from lpsteps.training import AdamW, TrainingParams, TrainingText, train_on_text, training_text

HIDDEN_SIZE = 48
N_LAYERS = 6
GAP = (2, 5)
PLAN = Plan.removing(N_LAYERS, (2, 3, 4))
METHODS = [streamline_layer, streamline_ffn, replaceme_cosine, lora]
# Families with their own layer calls: biases and flattened tokens, parallel branches, norms behind
# the branches and alternating attention, attention biases and a sliding window, layers that are not
# called so and whose output projections are not known.
FAMILIES = ["opt", "gpt_neox", "gemma3", "qwen2", "llama", "bloom"]
SEED = 3


@pytest.fixture
def windows() -> npt.NDArray[np.int64]:
    # Few of the 128 tokens, so that there is something to learn about the text.
    return np.random.default_rng(1).integers(3, 20, size=(23, 10))


@pytest.fixture
def text(windows: npt.NDArray[np.int64]) -> TrainingText:
    # 21 sequences to train on: 11 steps of two per epoch, the last with a single one.
    return training_text(windows, TrainingParams(epochs=1, batch=1))


# The loop


def test_the_last_eighth_is_held_out_and_windows_are_cut() -> None:
    windows = np.arange(17 * 10).reshape(17, 10)
    text = training_text(windows, TrainingParams(epochs=1, batch=1))
    np.testing.assert_array_equal(text.fit, windows[:15])
    np.testing.assert_array_equal(text.heldout, windows[15:])
    text = training_text(windows, TrainingParams(epochs=1, batch=1, windows=3, length=4))
    np.testing.assert_array_equal(
        text.fit, [windows[0, :4], windows[0, 4:8], windows[1, :4], windows[1, 4:8]]
    )
    np.testing.assert_array_equal(text.heldout, [windows[2, :4], windows[2, 4:8]])


def test_windows_that_begin_with_bos_are_cut_into_such_ones() -> None:
    windows = np.arange(17 * 10).reshape(17, 10)
    windows[:, 0] = 999
    params = TrainingParams(epochs=1, batch=1, windows=3, length=4)
    text = training_text(windows, params, bos_in_windows=True)
    np.testing.assert_array_equal(
        text.fit,
        [[999, *windows[row, start : start + 3]] for row in (0, 1) for start in (1, 4)],
    )
    np.testing.assert_array_equal(text.heldout, [[999, *windows[2, 1:4]], [999, *windows[2, 4:7]]])
    # As many sequences as of other windows, on which the tables count their tokens.
    for length in range(2, 11):
        params = TrainingParams(epochs=1, batch=1, length=length)
        plain = training_text(windows, params)
        text = training_text(windows, params, bos_in_windows=True)
        assert (text.fit.shape, text.heldout.shape) == (plain.fit.shape, plain.heldout.shape)
        assert (text.fit[:, 0] == 999).all() and (text.heldout[:, 0] == 999).all()
    np.testing.assert_array_equal(text.fit, windows[:15])


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_method_says_how_its_windows_begin(
    method: Any, tmp_path: Path, tiny_model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def told(*_: Any, bos_in_windows: bool) -> None:
        asked.append(bos_in_windows)
        raise LpstepsError("enough")

    monkeypatch.setattr(method, "training_text", told)
    windows = np.zeros((4, 10), dtype=np.int64)
    context = _context(tiny_model_folder("llama"), windows)
    for begins in (False, True):
        with pytest.raises(LpstepsError, match="enough"):
            method.build(dataclasses.replace(context, bos_in_windows=begins), _params(method))
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": 18}, "18 x 10 tokens: the calibration text has 17 x 10"),
        ({"length": 11}, "17 x 11 tokens: the calibration text has 17 x 10"),
    ],
)
def test_too_little_text_is_named(settings: dict[str, int], message: str) -> None:
    with pytest.raises(LpstepsError, match=message):
        training_text(np.zeros((17, 10), int), TrainingParams(epochs=1, batch=1, **settings))


def test_one_window_cannot_be_split() -> None:
    with pytest.raises(LpstepsError, match="windows: 1: one is held out"):
        training_text(np.zeros((1, 10), int), TrainingParams(epochs=1, batch=1))


def test_learning_rate_warms_up_and_decays_along_a_cosine() -> None:
    optimiser = AdamW(2.0, 0.5, warmup=0.2)
    rates = [optimiser.rate(step, 20) for step in range(20)]
    np.testing.assert_allclose(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[12] == pytest.approx((2.0 + 0.5) / 2)
    assert rates[8] == pytest.approx(0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))
    assert 0.5 < rates[-1] < 0.53
    assert [AdamW(3.0, 3.0).rate(step, 7) for step in range(7)] == [3.0] * 7


def _quadratic(parameter: torch.nn.Parameter) -> Callable[[torch.Tensor], torch.Tensor]:
    """Distance of the parameter from the mean token."""
    return lambda tokens: (parameter - tokens.float().mean()).square().mean()


def test_the_best_state_is_restored_not_the_last() -> None:
    # Fitted tokens pull away from the held-out ones after the first epoch.
    parameter = torch.nn.Parameter(torch.tensor([0.0]))
    text = TrainingText(np.full((4, 2), 10), np.full((2, 2), 2))
    visited: list[float] = []

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        if int(tokens[0, 0]) == 2:
            visited.append(parameter.item())
        return _quadratic(parameter)(tokens)

    params = TrainingParams(epochs=4, batch=2)
    curve = train_on_text([parameter], loss, text, params, AdamW(1.0, 1.0), seed=0, description="")
    assert curve.fit.shape == (8,)
    assert curve.heldout.shape == (5,)
    best = int(curve.heldout.argmin())
    assert 0 < best < 4
    assert parameter.item() == visited[best] != visited[-1]


def test_a_training_that_only_makes_it_worse_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.tensor([2.0]))
    text = TrainingText(np.full((4, 2), 10), np.full((2, 2), 2))
    params = TrainingParams(epochs=2, batch=2)
    train_on_text(
        [parameter], _quadratic(parameter), text, params, AdamW(1, 1), seed=0, description=""
    )
    assert parameter.item() == 2.0


def test_all_text_counts_the_same_in_the_heldout_loss() -> None:
    parameter = torch.nn.Parameter(torch.tensor([0.0]))
    text = TrainingText(np.zeros((2, 1), int), np.array([[1], [2], [3]]))
    losses = lambda tokens: (parameter - tokens.float()).square().mean()  # noqa: E731
    curve = train_on_text(
        [parameter], losses, text, TrainingParams(epochs=1, batch=2), AdamW(1, 1), seed=0,
        description="",
    )  # fmt: skip
    assert curve.heldout[0] == pytest.approx((1 + 4 + 9) / 3)


def test_every_sequence_is_read_once_per_epoch_in_a_seeded_order() -> None:
    def orders(seed: int) -> list[list[int]]:
        parameter = torch.nn.Parameter(torch.tensor([0.0]))
        seen: list[int] = []

        def loss(tokens: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                seen.extend(tokens[:, 0].tolist())
            return _quadratic(parameter)(tokens)

        text = TrainingText(np.arange(7)[:, None], np.zeros((1, 1), int))
        params = TrainingParams(epochs=2, batch=3)
        train_on_text([parameter], loss, text, params, AdamW(1, 1), seed=seed, description="")
        return [seen[:7], seen[7:]]

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert orders(0) == [first, second] != orders(1)


def test_dropout_is_active_in_training_steps_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    dropout = torch.nn.Dropout(0.5).eval()
    modes: list[tuple[bool, bool]] = []

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        modes.append((torch.is_grad_enabled(), dropout.training))
        return dropout(parameter).sum()

    text = TrainingText(np.zeros((4, 1), int), np.zeros((1, 1), int))
    train_on_text(
        [parameter], loss, text, TrainingParams(epochs=1, batch=2), AdamW(1e-3, 1e-3), seed=0,
        description="", dropouts=[dropout],
    )  # fmt: skip
    assert modes == [(False, False), (True, True), (True, True), (False, False)]


@pytest.mark.parametrize(
    ("poisoned", "message"), [(1, "step 0 of 4"), (2, "step 2 of 4: the loss")]
)
def test_a_loss_that_is_not_finite_is_named(poisoned: int, message: str) -> None:
    parameter = torch.nn.Parameter(torch.tensor([0.0]))
    calls = {True: 0, False: 0}

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        calls[torch.is_grad_enabled()] += 1
        bad = calls[False] == 1 if poisoned == 1 else calls[True] == 3
        return _quadratic(parameter)(tokens) * (math.nan if bad else 1.0)

    text = TrainingText(np.full((4, 1), 5), np.full((1, 1), 5))
    with pytest.raises(LpstepsError, match=message + r".*nan.*lower learning_rate"):
        train_on_text(
            [parameter], loss, text, TrainingParams(epochs=1, batch=1), AdamW(1, 1), seed=0,
            description="",
        )  # fmt: skip


# Activations


@pytest.mark.parametrize("gap", [(0, 2), (2, 5), (3, 6)])
def test_gap_is_read_as_the_whole_model_computes_it(
    tiny_model: Any, family: str, gap: tuple[int, int]
) -> None:
    model = tiny_model(family, layers=N_LAYERS)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, 128, (2, 9)))
    read = read_gap(model, tokens, *gap)
    with torch.no_grad():
        output = model(tokens, output_hidden_states=True, use_cache=False)
    torch.testing.assert_close(read.source, output.hidden_states[gap[0]], rtol=0, atol=0)
    if gap[1] < N_LAYERS:
        torch.testing.assert_close(read.target, output.hidden_states[gap[1]], rtol=0, atol=0)
    else:
        # The last entry of `hidden_states` is behind the final norm.
        normalised = decoder_of(model).norm(read.target)
        torch.testing.assert_close(normalised, output.hidden_states[-1], rtol=0, atol=0)
    # What was recorded beside the hidden state is what the layer needs.
    hidden = read.source
    for layer in decoder_of(model).layers[gap[0] : gap[0] + 1]:
        hidden = layer(hidden, *read.call.positional, **read.call.named)
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    torch.testing.assert_close(hidden, output.hidden_states[gap[0] + 1], rtol=0, atol=0)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_behind_the_gap_do_not_run(tiny_llama: Any) -> None:
    ran: list[int] = []
    for index, layer in enumerate(tiny_llama.model.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    read_gap(tiny_llama, torch.ones((1, 4), dtype=torch.long), 1, 3)
    assert ran == [0, 1, 2]


# Plain loops


def reference_loop(
    parameters: list[torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    text: TrainingText,
    optimiser: torch.optim.Optimizer,
    rates: list[float],
    *,
    clip: float | None,
) -> tuple[list[float], list[float]]:
    """Two epochs of batches of two, up to the last step; returns losses and norms of gradients."""
    generator = np.random.default_rng(SEED)
    losses: list[float] = []
    norms: list[float] = []
    for _ in range(2):
        order = generator.permutation(21)
        for first in range(0, 21, 2):
            value = loss(torch.tensor(text.fit[order[first : first + 2]]))
            gradients = torch.autograd.grad(value, parameters)
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
            norms.append(norm)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                scale = min(1.0, clip / norm) if clip else 1.0
                parameter.grad = gradient * scale
            optimiser.param_groups[0]["lr"] = rates[len(losses)]
            optimiser.step()
            losses.append(float(value.detach()))
    return losses, norms


def hidden_states(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(tokens, output_hidden_states=True, use_cache=False).hidden_states


def streamline_rates() -> list[float]:
    # 1 % of 22 steps is no step.
    return [5e-5 + 1.5e-4 * (1 + math.cos(math.pi * step / 22)) / 2 for step in range(22)]


def llama_layer(model: Any, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Write out what a Llama layer does."""
    positions = torch.arange(hidden.shape[1])[None]
    cos, sin = model.model.rotary_emb(hidden, positions)
    attention = layer.self_attn
    rows = layer.input_layernorm(hidden)

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return x * cos[:, None] + torch.cat([-x[..., half:], x[..., :half]], -1) * sin[:, None]

    query = rotate(heads(attention.q_proj(rows)))
    groups = attention.num_key_value_groups
    key = rotate(heads(attention.k_proj(rows))).repeat_interleave(groups, 1)
    value = heads(attention.v_proj(rows)).repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) / math.sqrt(attention.head_dim)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    hidden = hidden + attention.o_proj((weights @ value).transpose(1, 2).flatten(2))
    rows = layer.post_attention_layernorm(hidden)
    mlp = layer.mlp
    gate = torch.nn.functional.silu(mlp.gate_proj(rows))
    return hidden + mlp.down_proj(gate * mlp.up_proj(rows))


def test_streamline_layer_equals_a_plain_loop(tiny_llama: Any, text: TrainingText) -> None:
    # Some gradients must be large enough to be clipped.
    tiny_llama.model.layers[4].mlp.down_proj.weight.mul_(20.0)
    params = streamline_layer.Params(epochs=2, batch=2)
    layer, curve = streamline_layer.trained_layer(tiny_llama, GAP, text, params, seed=SEED)

    reference = copy.deepcopy(tiny_llama.model.layers[2]).requires_grad_(True)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        states = hidden_states(tiny_llama, tokens)
        difference = llama_layer(tiny_llama, reference, states[2]) - states[5]
        return difference.square().sum() / difference.numel()

    parameters = list(reference.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.95), weight_decay=1e-3)
    losses, norms = reference_loop(parameters, loss, text, optimiser, streamline_rates(), clip=5.0)
    assert len(losses) == 22
    assert max(norms) > 5.0 > min(norms)
    np.testing.assert_allclose(curve.fit, losses, rtol=1e-5)
    assert curve.heldout.argmin() == 2
    initial = dict(tiny_llama.model.layers[2].named_parameters())
    for name, expected in reference.named_parameters():
        torch.testing.assert_close(layer.get_parameter(name), expected, rtol=0, atol=1e-5)
        assert not torch.allclose(expected, initial[name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("intermediate", [None, 16])
def test_streamline_ffn_equals_a_plain_loop(
    tiny_llama: Any, text: TrainingText, intermediate: int | None
) -> None:
    params = streamline_ffn.Params(
        epochs=2, batch=2, intermediate=intermediate, learning_rate=2e-3, final_learning_rate=5e-4
    )
    operation, curve = streamline_ffn.trained_mlp(tiny_llama, GAP, text, params, seed=SEED)
    width = 80 if intermediate is None else intermediate
    assert operation.kind == "gated_mlp"
    assert operation.weight.shape == (3, HIDDEN_SIZE, width)

    start = np.random.default_rng(SEED).standard_normal((2, HIDDEN_SIZE, width)) / math.sqrt(48)
    gate, up = (torch.tensor(w, dtype=torch.float32, requires_grad=True) for w in start)
    down = torch.zeros((HIDDEN_SIZE, width), requires_grad=True)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        states = hidden_states(tiny_llama, tokens)
        x = states[2]
        rows = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        hidden = (rows @ gate).sigmoid() * (rows @ gate) * (rows @ up)
        return (x + hidden @ down.T - states[5]).square().mean()

    parameters = [gate, up, down]
    optimiser = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.95), weight_decay=1e-3)
    rates = [10 * rate for rate in streamline_rates()]
    losses, _ = reference_loop(parameters, loss, text, optimiser, rates, clip=5.0)
    np.testing.assert_allclose(curve.fit, losses, rtol=1e-5)
    assert curve.heldout.argmin() == 2
    for found, expected in zip(operation.weight, parameters, strict=True):
        np.testing.assert_allclose(found, expected.detach(), rtol=0, atol=1e-5)
    # Training starts at the pruned model.
    states = hidden_states(tiny_llama, torch.tensor(text.heldout))
    assert curve.heldout[0] == pytest.approx(float((states[2] - states[5]).square().mean()))


@pytest.mark.parametrize("objective", ["accurate", "fast"])
def test_replaceme_equals_a_plain_loop(tiny_llama: Any, text: TrainingText, objective: Any) -> None:
    params = replaceme_cosine.Params(objective=objective, epochs=2, batch=2, learning_rate=1e-3)
    transform, curve = replaceme_cosine.trained_transform(tiny_llama, GAP, text, params, seed=SEED)

    T = torch.eye(HIDDEN_SIZE, requires_grad=True)
    last = tiny_llama.model.layers[1]

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        states = hidden_states(tiny_llama, tokens)
        with torch.no_grad():
            without_mlp = copy.deepcopy(last)
            without_mlp.mlp.down_proj.weight.zero_()
            y = llama_layer(tiny_llama, without_mlp, states[1])
            m = last.mlp(last.post_attention_layernorm(y))
        a, b = (m @ T, states[5] - y) if objective == "fast" else (y + m @ T, states[5])
        return 1 - ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean()

    optimiser = torch.optim.Adam([T], lr=1.0)
    losses, _ = reference_loop([T], loss, text, optimiser, [1e-3] * 22, clip=None)
    np.testing.assert_allclose(curve.fit, losses, rtol=1e-4)
    assert curve.heldout.argmin() == 2
    np.testing.assert_allclose(transform, T.detach(), rtol=0, atol=1e-5)
    assert np.abs(transform - np.eye(HIDDEN_SIZE)).max() > 1e-2


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_lora_equals_plain_use_of_peft(tiny_model: Any, text: TrainingText, dropout: float) -> None:
    peft = pytest.importorskip("peft")
    params = lora.Params(epochs=2, batch=2, rank=4, dropout=dropout, learning_rate=1e-2)
    model = tiny_model("llama")
    weights, curve = lora.healed_weights(model, PLAN, text, params, seed=SEED)

    reference = tiny_model("llama")
    dense = {name: value.clone() for name, value in reference.model.state_dict().items()}
    del reference.model.layers[2:5]
    for index, layer in enumerate(reference.model.layers):
        layer.self_attn.layer_idx = index
    reference.config.num_hidden_layers = 3
    torch.manual_seed(SEED)
    config = peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, target_modules="all-linear")
    adapted = peft.get_peft_model(reference, config).train()
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    torch.manual_seed(SEED)
    optimiser = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0)
    rates = [1e-2 * (1 + math.cos(math.pi * step / 22)) / 2 for step in range(22)]
    losses, _ = reference_loop(
        parameters,
        lambda tokens: adapted(input_ids=tokens, labels=tokens, use_cache=False).loss,
        text,
        optimiser,
        rates,
        clip=None,
    )
    np.testing.assert_allclose(curve.fit, losses, rtol=1e-5)
    assert curve.heldout.argmin() == 2
    merged = adapted.merge_and_unload()
    assert len(weights) == 3 * 7
    for index, layer in enumerate((0, 1, 5)):
        for name, module in merged.model.layers[index].named_modules():
            if isinstance(module, torch.nn.Linear):
                found = weights[f"layers.{layer}.{name}.weight"]
                np.testing.assert_allclose(found, module.weight.detach(), rtol=0, atol=1e-5)
                before = dense[f"layers.{layer}.{name}.weight"]
                assert np.abs(found - before.numpy()).max() > 1e-2


# Whole methods


def _context(manifest: Any, windows: npt.NDArray[np.int64], plan: Plan = PLAN) -> RecoveryContext:
    compute = manifest.with_name("compute.json")
    write_json(compute, {"dtype": "float32", "device": "cpu"})
    source = ModelInput(manifest.parent, compute, windows)
    return RecoveryContext(plan, HIDDEN_SIZE, model=source, seed=SEED)


def _params(method: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 2, "batch": 4, "learning_rate": 2e-3}
    return method.Params(**settings)


def _bytes(patches: PatchSet) -> list[tuple[str, bytes]]:
    tensors = {**patches.replacements, **patches.audit}
    for gap in patches.gaps:
        for index, operation in enumerate(gap.operations):
            tensors[f"{gap.start}.{index}"] = operation.weight
    return [(name, np.ascontiguousarray(value).tobytes()) for name, value in tensors.items()]


def chained_logits(model: Any, tokens: torch.Tensor, chain: list[Any]) -> torch.Tensor:
    """Run layers of the dense model by hand; what is not a layer number maps the stream."""
    decoder = decoder_of(model)
    calls: list[tuple[Any, dict[str, Any]]] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda _, positional, named: calls.append((positional, dict(named))), with_kwargs=True
        )
        for layer in decoder.layers
    ]
    with torch.no_grad():
        decoder.backbone(input_ids=tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        positional, named = calls[0]
        hidden = positional[0] if positional else named["hidden_states"]
        for link in chain:
            if isinstance(link, int):
                positional, named = calls[link]
                named = {key: value for key, value in named.items() if key != "hidden_states"}
                hidden = decoder.layers[link](hidden, *positional[1:], **named)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            else:
                hidden = link(hidden)
        return decoder.logits(decoder.norm(hidden))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__.split(".")[-1])
def test_every_family_is_repaired_and_the_loss_falls(
    tiny_model_folder: Any, windows: npt.NDArray[np.int64], method: Any, family: str
) -> None:
    if method is lora:
        pytest.importorskip("peft")
    context = _context(tiny_model_folder(family), windows)
    assert context.model is not None
    if method is replaceme_cosine and family == "gemma3":
        with pytest.raises(LpstepsError, match="gemma3_text: a norm behind each MLP"):
            method.build(context, _params(method))
        return
    if method in (replaceme_cosine, streamline_ffn) and family == "bloom":
        with pytest.raises(LpstepsError, match="BloomBlock: no output projections are known"):
            method.build(context, _params(method))
        if method is replaceme_cosine:
            return
        params = method.Params(epochs=2, batch=4, learning_rate=2e-3, intermediate=80)
        patches = method.build(context, params)
    else:
        patches = method.build(context, _params(method))
    (fit,) = (values for name, values in patches.audit.items() if name.endswith("fit_loss"))
    (heldout,) = (values for name, values in patches.audit.items() if name.endswith("heldout_loss"))
    assert fit.shape == (2 * 6,)
    assert heldout.shape == (3,)
    assert heldout[2] < heldout[1] < heldout[0]

    pruned = load_model(context.model.folder, torch.float32)
    apply_plan(pruned, PLAN, patches)
    tokens = torch.tensor(windows[:2])
    with torch.no_grad():
        found = pruned(tokens, use_cache=False).logits
    dense = load_model(context.model.folder, torch.float32)
    parameters = decoder_of(dense).parameters()
    for name, values in patches.replacements.items():
        assert tuple(parameters[name].shape) == values.shape
        parameters[name].copy_(torch.tensor(values))
    chain: list[Any] = [0, 1, 5]
    if method is streamline_layer:
        assert patches.restored == (2,)
        assert {name.split(".")[1] for name in patches.replacements} == {"2"}
        chain = [0, 1, 2, 5]
    elif method is streamline_ffn:
        weights = torch.tensor(patches.gaps[0].operations[0].weight)

        def mlp(x: torch.Tensor) -> torch.Tensor:
            rows = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            gate = torch.nn.functional.silu(rows @ weights[0])
            return x + (gate * (rows @ weights[1])) @ weights[2].T

        chain = [0, 1, mlp, 5]
    torch.testing.assert_close(found, chained_logits(dense, tokens, chain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__.split(".")[-1])
def test_two_runs_give_the_same_bits(
    tiny_model_folder: Any, windows: npt.NDArray[np.int64], method: Any
) -> None:
    if method is lora:
        pytest.importorskip("peft")
    context = _context(tiny_model_folder("llama"), windows)
    first = method.build(context, _params(method))
    torch.manual_seed(99)
    assert _bytes(method.build(context, _params(method))) == _bytes(first)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])
def test_replaceme_folds_its_transform_into_the_mlp(
    tiny_model_folder: Any, windows: npt.NDArray[np.int64], family: str
) -> None:
    context = _context(tiny_model_folder(family), windows)
    assert context.model is not None
    patches = replaceme_cosine.build(context, _params(replaceme_cosine))
    assert patches.parameters == 0
    T = torch.tensor(patches.audit["gaps.0.transform"], dtype=torch.float32)
    assert (T - torch.eye(HIDDEN_SIZE)).abs().max() > 1e-2

    dense = load_model(context.model.folder, torch.float32)
    projection = branch_outputs(decoder_of(dense).layers[1]).mlp
    handle = projection.register_forward_hook(lambda _, __, output: output @ T)
    tokens = torch.tensor(windows[:2])
    expected = chained_logits(dense, tokens, [0, 1, 5])
    handle.remove()
    apply_plan(dense, PLAN, patches)
    with torch.no_grad():
        found = dense(tokens, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [streamline_layer, streamline_ffn, replaceme_cosine])
def test_gaps_are_repaired_one_by_one(
    tiny_model_folder: Any, windows: npt.NDArray[np.int64], method: Any
) -> None:
    folder = tiny_model_folder("llama", layers=8)
    several, first, second = (
        method.build(_context(folder, windows, Plan.removing(8, layers)), _params(method))
        for layers in [(1, 2, 5, 6, 7), (1, 2), (5, 6, 7)]
    )
    assert several.restored == (*first.restored, *second.restored)
    assert several.replacements.keys() == {**first.replacements, **second.replacements}.keys()
    for name, values in {**first.replacements, **second.replacements}.items():
        np.testing.assert_array_equal(several.replacements[name], values)
    found = [(gap.start, gap.end) for gap in several.gaps]
    assert found == ([(1, 3), (5, 8)] if method is streamline_ffn else [])
    for gap, alone in zip(several.gaps, (*first.gaps, *second.gaps), strict=True):
        assert isinstance(gap, GapPatch)
        np.testing.assert_array_equal(gap.operations[0].weight, alone.operations[0].weight)


def test_no_epoch_leaves_streamlines_modules_as_they_start(
    tiny_model_folder: Any, windows: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    context = _context(tiny_model_folder("llama"), windows)
    assert context.model is not None
    dense = load_model(context.model.folder, torch.float32)
    ffn = streamline_ffn.build(context, streamline_ffn.Params(epochs=0))
    gate, up, down = ffn.gaps[0].operations[0].weight
    assert not down.any()
    assert gate.std() == pytest.approx(up.std(), rel=0.1) == pytest.approx(48**-0.5, rel=0.1)
    layer = streamline_layer.build(context, streamline_layer.Params(epochs=0))
    for name, values in layer.replacements.items():
        np.testing.assert_array_equal(values, dense.model.get_parameter(name))
    for patches in (ffn, layer):
        assert patches.audit["gaps.0.fit_loss"].shape == (0,)
        assert patches.audit["gaps.0.heldout_loss"].shape == (1,)
        write_patches(
            tmp_path / "p.safetensors", tmp_path / "p.manifest.json", patches, recovery="start"
        )
        assert read_patches(tmp_path / "p.manifest.json").parameters == patches.parameters
    for method in (lora, replaceme_cosine):
        with pytest.raises(ValidationError, match="epochs"):
            method.Params(epochs=0)


def test_impossible_plans_are_named(tiny_model_folder: Any, windows: npt.NDArray[np.int64]) -> None:
    folder = tiny_model_folder("llama")
    with pytest.raises(LpstepsError, match="layer 0: no MLP lies in front"):
        plan = Plan.removing(N_LAYERS, (0, 1))
        replaceme_cosine.build(_context(folder, windows, plan), _params(replaceme_cosine))
    with pytest.raises(LpstepsError, match=r"gap \[4, 5\): .* single layer"):
        plan = Plan.removing(N_LAYERS, (1, 2, 4))
        streamline_layer.build(_context(folder, windows, plan), _params(streamline_layer))


def test_without_peft_lora_says_how_to_get_it(
    tiny_llama: Any, text: TrainingText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        LpstepsError, match=r"needs the package peft; install it with: pip install -e '\.\[lora\]'$"
    ):
        lora.healed_weights(tiny_llama, PLAN, text, lora.Params(), seed=0)


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_lora_refuses_layers_of_few_linear_modules_before_it_trains(
    family: str, tiny_model: Any, text: TrainingText
) -> None:
    message = rf"{family}: recovery lora adapts linear modules, which have [0-4]?\d% of the weights"
    with pytest.raises(LpstepsError, match=message):
        lora.healed_weights(tiny_model(family, layers=N_LAYERS), PLAN, text, lora.Params(), seed=0)


def test_defaults_are_the_published_settings() -> None:
    layer, ffn = streamline_layer.Params(), streamline_ffn.Params()
    for params in (layer, ffn):
        assert (params.learning_rate, params.final_learning_rate) == (2e-4, 5e-5)
    cosine = replaceme_cosine.Params()
    assert (cosine.learning_rate, cosine.epochs) == (1e-4, 10)
    healing = lora.Params()
    assert (healing.rank, healing.alpha, healing.dropout) == (8, 16, 0.05)
    assert healing.learning_rate == 1e-4
