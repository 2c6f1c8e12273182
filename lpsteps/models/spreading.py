"""A model larger than one GPU: its layers on several, in their order.

Everything but the layers is on the first device, ``model.device``, and a layer elsewhere gets what
it reads from there and gives back what it makes, by accelerate's hooks. So whatever runs the model,
or single layers of it, finds all streams on one device. Only weights and what is watched inside a
layer are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
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
            hook = AlignDevicesHook(
                devices[device],
                io_same_device=True,
                skip_keys=getattr(model, "_skip_keys_device_placement", None),
            )
            add_hook_to_module(layer, hook)
