"""Causal attention on a processor by products of dense matrices, forward and backward.

Torch's fused kernel for processors multiplies small tiles by itself, at a fraction of the rate of a
product of larger matrices, above all in the backward pass and in 16-bit numbers. Here a block of
queries meets all keys that it may see in one product per group of heads. A block's scores are made,
used and dropped; for the gradient they are made again, unless the window is short. Scores, softmax
and sums over blocks are float32 at least, as in the fused kernel; the other products have the
model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lpsteps.models.families import LAYOUTS

# The name of this attention in the configuration of a model.
CAUSAL_ATTENTION = "lpsteps_causal"
_FUSED = "sdpa"
# Many enough for a product, few enough that little above the diagonal is computed.
_QUERIES_PER_BLOCK = 64
# Windows up to here keep their attention for the gradient, which else is made again.
_LONGEST_KEPT = 1024


def use_causal_attention(model: PreTrainedModel) -> None:
    """Let a model on a processor compute plain causal attention by :func:`causal_attention`.

    Whatever that does not cover (masks, dropout, biases of positions) stays with the fused kernel.
    A model on a GPU, one without the fused kernel, and a family that the tests do not run keep what
    they have: code of a family may ask for the fused kernel by name.

    Args:
        model: A causal language model.
    """
    config = model.config.get_text_config()
    tested = config.model_type in LAYOUTS
    if model.device.type == "cpu" and tested and config._attn_implementation == _FUSED:
        AttentionInterface.register(CAUSAL_ATTENTION, _attention_of_a_layer)
        AttentionMaskInterface.register(CAUSAL_ATTENTION, sdpa_mask)
        model.set_attn_implementation(CAUSAL_ATTENTION)


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Return ``softmax(scale * Q K^T) V`` of each head, where no query sees a later key.

    Args:
        query: ``[batch, heads, tokens, size]``.
        key: ``[batch, key heads, tokens, size]``; each serves as many heads in a row as there are
            heads per key head. All three are of one dtype.
        value: ``[batch, key heads, tokens, value size]``.
        scale: Factor of the scores; None is ``1 / sqrt(size)``.

    Returns:
        ``[batch, heads, tokens, value size]`` in the dtype of the input, with a gradient for it.
    """
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return cast(
        torch.Tensor,
        _CausalAttention.apply(query, key, value, factor),  # type: ignore[no-untyped-call]
    )


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.scale = scale
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        kept: list[torch.Tensor] = []
        keeps = any(ctx.needs_input_grad) and query.shape[2] <= _LONGEST_KEPT
        for block, attention in _attention(query, key, scale):
            narrow = attention.to(value.dtype)
            output[:, :, block] = _by_head(narrow @ value[:, :, : block.stop], query.shape[1])
            if keeps:
                kept.append(narrow)
        ctx.save_for_backward(query, key, value, *kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        (gradient,) = gradients
        heads, key_heads = query.shape[1], key.shape[1]
        wide = _accumulated(query.dtype)
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros_like(states, dtype=wide) for states in (key, value))
        again = _attention(query, key, ctx.scale)
        for block, attention in zip(_blocks(query), kept, strict=True) if kept else again:
            of_output = _by_key_head(gradient[:, :, block], key_heads)
            of_value[:, :, : block.stop] += attention.to(value.dtype).mT @ of_output
            of_scores = (of_output @ value[:, :, : block.stop].mT).to(wide)
            probabilities = attention.to(wide)
            # The probabilities sum to one: a gradient along all of them has no effect.
            of_scores -= (of_scores * probabilities).sum(dim=-1, keepdim=True)
            of_scores *= probabilities
            narrow = of_scores.to(query.dtype)
            of_query[:, :, block] = _by_head(narrow @ key[:, :, : block.stop], heads)
            of_key[:, :, : block.stop] += narrow.mT @ _by_key_head(query[:, :, block], key_heads)
        of_query *= ctx.scale
        of_key *= ctx.scale
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None


def _blocks(query: torch.Tensor) -> Iterator[slice]:
    """Yield the tokens of blocks of queries."""
    length = query.shape[2]
    for start in range(0, length, _QUERIES_PER_BLOCK):
        yield slice(start, min(start + _QUERIES_PER_BLOCK, length))


def _attention(
    query: torch.Tensor, key: torch.Tensor, scale: float
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield blocks of queries with their attention to the keys up to the block's end.

    Args:
        query: ``[batch, heads, tokens, size]``.
        key: ``[batch, key heads, tokens, size]``.
        scale: Factor of the scores.

    Yields:
        The block, and ``[batch, key heads, heads per key head * queries, keys]``, at least float32.
    """
    batch, key_heads, _, _ = key.shape
    wide = _accumulated(query.dtype)
    keys = key.to(wide)
    later = torch.ones((_QUERIES_PER_BLOCK, _QUERIES_PER_BLOCK), dtype=torch.bool).triu_(1)
    for block in _blocks(query):
        queries = block.stop - block.start
        rows = _by_key_head(query[:, :, block].to(wide) * scale, key_heads)
        scores = rows @ keys[:, :, : block.stop].mT
        diagonal = scores.view(batch, -1, queries, block.stop)[..., block]
        diagonal.masked_fill_(later[:queries, :queries], -math.inf)
        yield block, scores.softmax(dim=-1)


def _accumulated(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _by_key_head(states: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Lay the rows of all heads that share a key head below each other."""
    batch, _, _, size = states.shape
    return states.reshape(batch, key_heads, -1, size)


def _by_head(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo :func:`_by_key_head`."""
    batch, key_heads, rows, size = states.shape
    return states.view(batch, heads, key_heads * rows // heads, size)


def _attention_of_a_layer(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks its attention functions to.

    Args:
        module: The attention layer.
        query: ``[batch, heads, tokens, size]``.
        key: ``[batch, key heads, tokens, size]``.
        value: ``[batch, key heads, tokens, value size]``.
        attention_mask: None where attention is causal.
        options: The rest of what the layer hands on.

    Returns:
        ``[batch, tokens, heads, value size]`` and no attention weights.
    """
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    plain = (
        causal
        and attention_mask is None
        and query.shape[2] == key.shape[2]
        and not options.get("dropout")
        and all(options.get(name) is None for name in ("cache", "position_bias", "softcap"))
    )
    if not plain:
        fused = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return cast(tuple[torch.Tensor, None], fused)
    output = causal_attention(query, key, value, options.get("scaling"))
    return output.transpose(1, 2).contiguous(), None
