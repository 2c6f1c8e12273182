"""Slow references: switch layers off, run the whole model, read the loss off its logits."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpsteps.models.layers import decoder_of


class Scale(torch.nn.Module):
    """A stand-in that multiplies the stream, with what some models read from a layer."""

    def __init__(self, layer: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)
        self.factor = factor

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states * self.factor


def mean_loss(model: Any, skipped: Collection[int], windows: npt.NDArray[np.int64]) -> float:
    """Mean cross-entropy over all predicted tokens with the layers in ``skipped`` switched off."""
    layers = decoder_of(model).layers
    originals = {layer: layers[layer] for layer in skipped}
    for layer in skipped:
        layers[layer] = Scale(layers[layer], 1.0)
    losses = []
    for window in torch.from_numpy(windows):
        with torch.no_grad():
            logits = model(window[None], use_cache=False).logits[0].double()
        for position in range(len(window) - 1):
            probabilities = torch.softmax(logits[position], dim=0)
            losses.append(-math.log(float(probabilities[window[position + 1]])))
    for layer, original in originals.items():
        layers[layer] = original
    return sum(losses) / len(losses)
