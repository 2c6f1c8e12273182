"""What the dense model computes around a gap, recomputed batch by batch and never stored."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from lpsteps.models.layer_calls import LayerCall, watching_calls
from lpsteps.models.layers import decoder_of


class _ReachedError(Exception):
    """Thrown inside a forward pass to end it."""


@dataclass(frozen=True, eq=False)
class GapPass:
    """One batch on its way through the layers `[start, end)` of the dense model.

    Attributes:
        source: What layer `start` reads, float32 `[batch, tokens, hidden_size]`, on the model's
            device.
        target: What layer `end`, or the final norm, reads; the same shape.
        call: What else the model hands to layer `start`: the attention mask, rotary embeddings;
            tensors in float32.
    """

    source: torch.Tensor
    target: torch.Tensor
    call: LayerCall


def run_until(model: PreTrainedModel, tokens: torch.Tensor, boundary: int) -> None:
    """Run the layers in front of a boundary, without gradients and without the layers behind it.

    Args:
        model: A causal language model of a known family, with the caller's hooks on it.
        tokens: Token ids `[batch, tokens]`, on any device.
        boundary: Number of the layer that does not run any more; the number of layers stands for
            the final norm. Hooks that the caller has on its input still run.
    """
    decoder = decoder_of(model)

    def stop(*_: object) -> None:
        raise _ReachedError

    entrance = [*decoder.layers, decoder.norm][boundary]
    handle = entrance.register_forward_pre_hook(stop)
    try:
        with suppress(_ReachedError), torch.no_grad():
            decoder.backbone(input_ids=tokens.to(model.device), use_cache=False)
    finally:
        handle.remove()


def read_gap(model: PreTrainedModel, tokens: torch.Tensor, start: int, end: int) -> GapPass:
    """Run a batch through the dense model up to the end of a gap.

    Args:
        model: The dense model.
        tokens: Token ids `[batch, tokens]`, on any device.
        start: First layer of the gap.
        end: Layer after the last one; the number of layers stands for the final norm.
    """
    decoder = decoder_of(model)
    entrances = [*decoder.layers, decoder.norm]
    calls: list[tuple[torch.Tensor, LayerCall]] = []

    def keep(_: int, hidden: torch.Tensor, call: LayerCall) -> None:
        calls.append((hidden, call))

    with watching_calls([entrances[start], entrances[end]], keep):
        run_until(model, tokens, end)
    (source, call), (target, _) = calls
    return GapPass(
        source.float().to(model.device),
        target.float().to(model.device),
        LayerCall(_float32(call.positional), _float32(call.named)),
    )


def _float32(value: Any) -> Any:
    """Cast every floating-point tensor in nested arguments."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_float32(item) for item in value)
    if isinstance(value, dict):
        return {name: _float32(item) for name, item in value.items()}
    return value
