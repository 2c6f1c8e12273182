"""Causal attention by dense products: a reference, its gradient, its precision, and its use."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from lpsteps.models import causal_attention as module
from lpsteps.models.causal_attention import (
    CAUSAL_ATTENTION,
    causal_attention,
    use_causal_attention,
)
from lpsteps.models.loading import load_model

States = list[torch.Tensor]


def states(
    heads: int, key_heads: int, tokens: int, dtype: torch.dtype = torch.float64, *, batch: int = 2
) -> States:
    """Query, key and value with sizes of their own, and as uneven as those of models are."""
    generator = torch.Generator().manual_seed(heads + tokens)
    shapes = ((heads, 6), (key_heads, 6), (key_heads, 5))
    return [
        (2 * torch.randn(batch, count, tokens, size, generator=generator, dtype=torch.float64))
        .to(dtype)
        .requires_grad_(True)
        for count, size in shapes
    ]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> Any:
    """One head and one query after the other."""
    per_key_head = query.shape[1] // key.shape[1]
    rows = []
    for head in range(query.shape[1]):
        keys, values = key[:, head // per_key_head], value[:, head // per_key_head]
        for token in range(query.shape[2]):
            scores = torch.einsum("bd,bkd->bk", query[:, head, token], keys[:, : token + 1])
            weights = (scale * scores).softmax(dim=1)
            rows.append(torch.einsum("bk,bkd->bd", weights, values[:, : token + 1]))
    stacked = torch.stack(rows, dim=1)
    return stacked.view(*query.shape[:3], -1)


def with_gradients(output: torch.Tensor, inputs: States) -> States:
    weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view(output.shape)
    return [output, *torch.autograd.grad(output, inputs, weights.to(output.dtype))]


def relative_error(found: torch.Tensor, reference: torch.Tensor) -> float:
    difference = (found.double() - reference.double()).norm() / reference.double().norm()
    return float(difference.detach())


@settings(max_examples=25, deadline=None)
@given(
    key_heads=st.integers(1, 3),
    per_key_head=st.integers(1, 3),
    tokens=st.integers(1, 9),
    queries_per_block=st.integers(1, 5),
    kept=st.booleans(),
    scale=st.none() | st.floats(0.1, 2.0),
)
def test_output_and_gradients_are_those_of_plain_loops(
    key_heads: int,
    per_key_head: int,
    tokens: int,
    queries_per_block: int,
    kept: bool,
    scale: float | None,
) -> None:
    inputs = states(key_heads * per_key_head, key_heads, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_QUERIES_PER_BLOCK", queries_per_block)
        patch.setattr(module, "_LONGEST_KEPT", tokens if kept else 0)
        found = with_gradients(causal_attention(*inputs, scale), inputs)
    expected = with_gradients(plain(*inputs, 6**-0.5 if scale is None else scale), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tokens", [64, 130])
def test_inputs_may_be_views(tokens: int) -> None:
    inputs = states(4, 2, tokens)
    turned = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in inputs]
    found, expected = causal_attention(*turned), causal_attention(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_bfloat16_is_as_near_to_the_exact_result_as_the_fused_kernel() -> None:
    inputs = states(6, 2, 200, torch.bfloat16)
    exact = [part.detach().double().requires_grad_(True) for part in inputs]
    expected = with_gradients(plain(*exact, 6**-0.5), exact)
    fused = scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    ours = with_gradients(causal_attention(*inputs), inputs)
    theirs = with_gradients(fused, inputs)

    for mine, other, reference in zip(ours, theirs, expected, strict=True):
        assert mine.dtype == torch.bfloat16
        # Both round factors to eight bits, though not the same ones.
        assert relative_error(mine, reference) < 3 * relative_error(other, reference)
        assert relative_error(mine, reference) < 2**-7


def test_only_short_windows_keep_their_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    for longest in (100, 99):
        monkeypatch.setattr(module, "_LONGEST_KEPT", longest)
        output: Any = causal_attention(*states(2, 1, 100))
        kept.append(len(output.grad_fn.saved_tensors))
    assert kept == [3 + 2, 3]
    without_gradient: Any = causal_attention(*(part.detach() for part in states(2, 1, 100)))
    assert without_gradient.grad_fn is None


def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Note the shape of every query that the attention of this project gets."""
    shapes: list[torch.Size] = []
    original = module.causal_attention

    def counting(query: torch.Tensor, *others: Any) -> torch.Tensor:
        shapes.append(query.shape)
        return original(query, *others)

    monkeypatch.setattr(module, "causal_attention", counting)
    return shapes


def test_models_of_every_family_compute_the_same_with_it(
    tiny_model_folder: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model_folder(family).parent, torch.float32)
    other = copy.deepcopy(model)
    use_causal_attention(other)
    shapes = counted(monkeypatch)
    tokens = torch.arange(3, 3 + 140).view(2, 70) % 120
    embedded = model.get_input_embeddings()(tokens)
    found, expected = (
        with_gradients(
            each(inputs_embeds=states, use_cache=False).logits,
            [states],
        )
        for each, states in (
            (other, embedded.clone().requires_grad_(True)),
            (model, embedded.clone().requires_grad_(True)),
        )
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5
    expected_name = "eager" if family == "gemma2" else CAUSAL_ATTENTION
    assert other.config._attn_implementation == expected_name
    # All layers of this Mistral see a few tokens back only.
    assert bool(shapes) == (family not in ("gemma2", "mistral"))
    assert model.config._attn_implementation != CAUSAL_ATTENTION


@pytest.mark.parametrize("case", ["padded", "continued"])
def test_what_is_not_plainly_causal_stays_with_the_fused_kernel(
    case: str, tiny_model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model_folder("llama").parent, torch.float32)
    other = copy.deepcopy(model)
    use_causal_attention(other)
    tokens = torch.arange(3, 23).view(2, 10)
    options: dict[str, Any] = {"input_ids": tokens}
    if case == "padded":
        options["attention_mask"] = torch.ones_like(tokens)
        options["attention_mask"][0, :4] = 0
    logits = []
    shapes = counted(monkeypatch)
    for each in (model, other):
        with torch.no_grad():
            if case == "continued":
                options["past_key_values"] = each(tokens, use_cache=True).past_key_values
                shapes.clear()
            logits.append(each(**options).logits)
    assert not shapes
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_soft_caps_are_refused_as_by_the_fused_kernel() -> None:
    query, key, value = states(2, 2, 4)
    with pytest.raises(ValueError, match="softcap"):
        module._attention_of_a_layer(
            torch.nn.Module(), query, key, value, None, softcap=30.0, is_causal=True
        )
