"""Watching the residual stream where it enters each decoder layer and the final norm.

`output_hidden_states` would keep all of them, and its last entry is taken after the final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.layers import decoder_of

BoundaryCallback = Callable[[int, torch.Tensor], None]


@contextmanager
def watching_boundaries(model: PreTrainedModel, callback: BoundaryCallback) -> Iterator[None]:
    """Call back with each boundary, in order, during every forward pass inside the `with` block.

    Boundary `l` is what decoder layer `l` reads; boundary `n_layers` is the output of the last
    layer, before the final norm. Nothing is kept. In a patched model a boundary is seen after its
    patch.

    Args:
        model: A causal language model of a known family.
        callback: Gets the boundary's number and the model's own tensor `[batch, tokens,
            hidden_size]`, which it must not change; on the model's device, wherever the layer is.
    """
    decoder = decoder_of(model)
    handles = [
        module.register_forward_pre_hook(
            partial(_report, callback, boundary, model.device), with_kwargs=True
        )
        for boundary, module in enumerate([*decoder.layers, decoder.norm])
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _report(
    callback: BoundaryCallback,
    boundary: int,
    device: torch.device,
    module: nn.Module,
    positional: tuple[Any, ...],
    named: Mapping[str, Any],
) -> None:
    hidden = positional[0] if positional else named["hidden_states"]
    callback(boundary, hidden.to(device))
