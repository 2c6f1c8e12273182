"""A model larger than one GPU: its layers on several, in their order.

Everything but the layers is on the first device, ``model.device``, and hooks bring what a layer
elsewhere reads there and what it makes back. So whatever runs the model, or single layers of it,
finds all streams on one device. Only weights, and what is watched at a layer's own entrance or
inside it, are elsewhere.

The hooks are torch's: those of accelerate make the layer refer to itself, so that memory of a model
that is gone would wait for the next search of cycles, which is rare in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.layers import decoder_of

SHARE = 0.85
"""Part of a device's free memory that weights may take; the rest is for activations and sums."""


def weight_bytes(model: PreTrainedModel) -> int:
    """Return what the parameters and buffers of a model take, shared ones counted once."""
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.nbytes for tensor in tensors.values())


def devices_needed(size: int, free: Sequence[int]) -> int | None:
    """Return how many of the devices, first to last, hold weights of a size.

    Args:
        size: Bytes of the weights.
        free: Free bytes of each device.

    Returns:
        Their number, at least 1, or None when all together do not.
    """
    for count in range(1, len(free) + 1):
        if size <= SHARE * sum(free[:count]):
            return count
    return None


def spread(model: PreTrainedModel, devices: Sequence[torch.device], free: Sequence[int]) -> None:
    """Put a model on several devices.

    Args:
        model: A causal language model of a known family, on the CPU.
        devices: Where it goes; each gets layers in proportion to its free memory, the first the
            fewer as it has the embeddings and the head.
        free: Free bytes of each.
    """
    layers = decoder_of(model).layers
    originals = list(layers)
    sizes = [sum(tensor.nbytes for tensor in layer.parameters()) for layer in originals]
    try:
        for number in range(len(originals)):
            layers[number] = nn.Identity()
        others = weight_bytes(model)
        model.to(devices[0])
    finally:
        for number, original in enumerate(originals):
            layers[number] = original
    share = (others + sum(sizes)) / sum(free)
    device, taken = 0, others
    for layer, size in zip(originals, sizes, strict=True):
        # A layer goes where its middle lies.
        while device + 1 < len(devices) and taken + size / 2 > share * free[device]:
            device, taken = device + 1, 0
        taken += size
        layer.to(devices[device])
        if device > 0:
            layer.register_forward_pre_hook(partial(_enter, devices[device]), with_kwargs=True)
            layer.register_forward_hook(partial(_leave, devices[0]))


# A cache of keys and values keeps each layer's where the layer is.
_CACHES = ("past_key_values", "past_key_value")


def _enter(
    device: torch.device, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    moved: tuple[tuple[Any, ...], dict[str, Any]] = (
        send_to_device(positional, device),
        send_to_device(named, device, skip_keys=list(_CACHES)),
    )
    return moved


def _leave(device: torch.device, _: nn.Module, __: object, output: Any) -> Any:
    return send_to_device(output, device)
