"""Watching the residual stream where it enters each decoder layer and the final norm.

`output_hidden_states` would keep all of them, and its last entry is taken after the final norm.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from lpsteps.models.layer_calls import LayerCall, watching_calls
from lpsteps.models.layers import decoder_of

BoundaryCallback = Callable[[int, torch.Tensor], None]


def watching_boundaries(
    model: PreTrainedModel, callback: BoundaryCallback
) -> AbstractContextManager[None]:
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
    device = model.device

    def report(boundary: int, hidden: torch.Tensor, _: LayerCall) -> None:
        callback(boundary, hidden.to(device))

    return watching_calls([*decoder.layers, decoder.norm], report)
