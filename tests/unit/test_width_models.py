"""Cutting heads and channels out of models: the same function as with their weights at zero."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lpsteps.errors import LpstepsError
from lpsteps.models.coupling import check_coupling
from lpsteps.models.layers import decoder_of
from lpsteps.models.width import PrunableLayer, apply_width, prunable_layer, width_pruning
from lpsteps.width_pruning import LayerWidth, TensorShapes, WidthPruning, parameters_removed

PRUNABLE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"]
TOKENS = torch.arange(2, 34).reshape(2, 16)
ODD = tuple(range(1, 80, 2))
KEPT = {1: LayerWidth((1,), ODD), 2: LayerWidth((0,), ODD[:7]), 4: LayerWidth((0, 1), ODD)}


@pytest.fixture(params=PRUNABLE)
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> Any:
    """A random model of each family that can be pruned, with biases where the family has them."""
    model = tiny_model(request.param)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_pruned_equals_dense_without_the_outputs_of_what_left(model: Any) -> None:
    silenced = copy.deepcopy(model)
    for number, width in KEPT.items():
        layer = decoder_of(silenced).layers[number]
        output = layer.self_attn.o_proj.weight
        for query in range(4):
            if query // 2 not in width.heads:
                output[:, 12 * query : 12 * (query + 1)] = 0
        for channel in range(80):
            if channel not in width.channels:
                layer.mlp.down_proj.weight[:, channel] = 0
    dense, before = model(TOKENS).logits, parameters(model)
    pruning = width_pruning(model, KEPT)
    apply_width(model, pruning)
    expected = silenced(TOKENS).logits
    assert (expected - dense).abs().max() > 0.1
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    assert before - parameters(model) == parameters_removed(pruning.shapes)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_generation_with_a_cache_equals_one_without(model: Any) -> None:
    apply_width(model, width_pruning(model, KEPT))
    found = model.generate(TOKENS[:, :5], max_new_tokens=9, do_sample=False)
    tokens = TOKENS[:, :5]
    for _ in range(9):
        best = model(tokens, use_cache=False).logits[:, -1].argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, best], dim=1)
    assert found.tolist() == tokens.tolist()


def test_shapes_are_those_of_the_pruned_model(model: Any) -> None:
    pruning = width_pruning(model, KEPT)
    dense = {name: list(each.shape) for name, each in model.model.named_parameters()}
    apply_width(model, pruning)
    pruned = {name: list(each.shape) for name, each in model.model.named_parameters()}
    assert dict(pruning.shapes) == {
        name: TensorShapes(dense=dense[name], pruned=pruned[name])
        for name in dense
        if dense[name] != pruned[name] or name in pruning.shapes
    }


def test_parameters_of_a_structure(tiny_model: Callable[..., Any]) -> None:
    # 2 query heads, their key and their value; both sides of the gate and what reads them.
    weights = 12 * 48 * (2 + 1 + 1 + 2)
    for family, biases in (("llama", 0), ("qwen2", 12 * (2 + 1 + 1))):
        layer = prunable_layer(tiny_model(family), 0)
        assert layer.parameters_of(layer.heads_structure([1])) == weights + biases
        assert layer.parameters_of(layer.channels_structure([1])) == 3 * 48


def test_a_pruning_of_another_model_is_refused(tiny_model: Callable[..., Any]) -> None:
    pruning = width_pruning(tiny_model("llama"), KEPT)
    other = tiny_model("llama", intermediate_size=96)
    before = other(TOKENS).logits
    with pytest.raises(
        LpstepsError, match=r"layers.1.mlp.down_proj.weight: \[48, 80\] to \[48, 40"
    ):
        apply_width(other, pruning)
    missing = dict(pruning.shapes)
    del missing["layers.2.self_attn.v_proj.weight"]
    with pytest.raises(LpstepsError, match=r"layers.2.self_attn.v_proj.weight: not cut: this"):
        apply_width(tiny_model("llama"), WidthPruning(KEPT, missing))
    assert torch.equal(other(TOKENS).logits, before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({6: LayerWidth((0,), (0,))}, "layers: 6: the model has 6 decoder layers"),
        ({3: LayerWidth((0, 2), (0,))}, "layers.3.heads: 2: the model has 2 of them"),
        ({3: LayerWidth((0,), (3, 80))}, "layers.3.channels: 80: the model has 80 of them"),
    ],
)
def test_what_does_not_exist_cannot_stay(
    tiny_llama: Any, layers: dict[int, LayerWidth], message: str
) -> None:
    with pytest.raises(LpstepsError, match=message):
        width_pruning(tiny_llama, layers)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("family", PRUNABLE)
def test_torch_pruning_finds_the_same_structures(
    tiny_model: Callable[..., Any], family: str, key_value_heads: int
) -> None:
    pytest.importorskip("torch_pruning")
    model = tiny_model(family, layers=3, num_key_value_heads=key_value_heads)
    before, implementation = model(TOKENS).logits, model.config._attn_implementation
    check_coupling(model, range(3))
    assert torch.equal(model(TOKENS).logits, before)
    assert model.config._attn_implementation == implementation
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_another_idea_of_a_structure_is_refused(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_pruning")
    own = PrunableLayer.heads_structure

    def exchanged(layer: PrunableLayer, heads: Any) -> Any:
        structure = dict(own(layer, heads))
        axis, rows = structure["self_attn.v_proj"]
        structure["self_attn.v_proj"] = (axis, [(row + 12) % 24 for row in rows])
        return structure

    monkeypatch.setattr(PrunableLayer, "heads_structure", exchanged)
    with pytest.raises(LpstepsError, match=r"model_type: llama: layer 1: self_attn.v_proj: torch-"):
        check_coupling(tiny_llama, [1])


@pytest.mark.parametrize(
    ("family", "message"),
    [
        # Its norm of all queries would see other statistics.
        ("olmo2", "model_type: olmo2: layer 0: self_attn.k_norm.weight: torch-pruning couples"),
        ("phi3", "model_type: phi3: its layers have no self_attn.q_proj; heads and channels can"),
        ("gpt_neox", "its layers have no self_attn.q_proj"),
        ("opt", "its layers have no self_attn.o_proj"),
    ],
)
def test_a_family_that_cannot_be_cut_says_so(
    tiny_model: Callable[..., Any], family: str, message: str
) -> None:
    pytest.importorskip("torch_pruning")
    with pytest.raises(LpstepsError, match=message) as raised:
        check_coupling(tiny_model(family), range(2))
    assert "\n" not in str(raised.value)


def test_without_torch_pruning_it_says_how_to_get_it(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(
        LpstepsError, match=r"needs the package torch-pruning; install it with: .* '\.\[width\]'$"
    ):
        check_coupling(tiny_llama, [0])
