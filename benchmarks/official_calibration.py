"""What the released code of LinearPatch does to calibrate, in two passes over the text.

Written anew from its description, as it computes and without its crashes. The first pass keeps what
every layer reads and takes cosines along the tokens for one number of removed layers; the second
one compares channels on both sides of the cut that was found. Both passes also compute the logits
and fill a key-value cache, and the second one builds the Hadamard matrix each time it reads a
layer. Another number of layers, or the basis without a rotation, takes both passes once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lpsteps.hadamard import basis_matrix
from lpsteps.models.layers import decoder_of

Tokens = npt.NDArray[np.int64]


def official_scores(model: PreTrainedModel, windows: Tokens, n: int) -> list[float]:
    """Run the first pass: score each cut of `n` layers.

    Args:
        model: A causal language model of a known family.
        windows: Token ids `[windows, length]`.
        n: Number of layers to remove.

    Returns:
        For each first layer the mean over channels and windows of the cosine along the tokens, 0
        for the cuts that are not scored: those with the first or the last layer.
    """
    layers = decoder_of(model).layers
    inputs: dict[int, torch.Tensor] = {}

    def keep(number: int, hidden: torch.Tensor) -> None:
        inputs[number] = hidden

    handles = [_reading(layers[number], number, keep) for number in range(len(layers))]
    scores = [0.0] * (len(layers) - n)
    try:
        for window in torch.from_numpy(windows):
            _run(model, window)
            for start in range(1, len(layers) - n):
                cosines = torch.cosine_similarity(inputs[start], inputs[start + n], dim=1)
                scores[start] += cosines.mean().item() / len(windows)
    finally:
        for handle in handles:
            handle.remove()
    return scores


def official_scales(
    model: PreTrainedModel, windows: Tokens, start: int, end: int, *, rotated: bool
) -> torch.Tensor:
    """Run the second pass: the scale of each channel over the layers `[start, end)`.

    Args:
        model: A causal language model of a known family.
        windows: Token ids `[windows, length]`.
        start: First removed layer.
        end: Layer behind the cut.
        rotated: Whether to compare channels in the Hadamard basis.

    Returns:
        The mean over windows of the ratio of mean magnitudes, float32 `[hidden_size]`.
    """
    layers = decoder_of(model).layers
    magnitudes: dict[int, torch.Tensor] = {}

    def measure(number: int, hidden: torch.Tensor) -> None:
        if rotated:
            # Built on every call, as there.
            matrix = torch.from_numpy(basis_matrix(hidden.shape[-1]).matrix)
            hidden = hidden @ matrix.to(hidden)
        magnitudes[number] = hidden.abs().mean(dim=(0, 1)).float()

    handles = [_reading(layers[number], number, measure) for number in (start, end)]
    total = torch.zeros(model.config.hidden_size, device=model.device)
    try:
        for window in torch.from_numpy(windows):
            _run(model, window)
            total += magnitudes[end] / magnitudes[start]
    finally:
        for handle in handles:
            handle.remove()
    return total / len(windows)


def official_calibration(
    model: PreTrainedModel, windows: Tokens, n: int, *, rotated: bool
) -> tuple[int, torch.Tensor]:
    """Run both passes.

    Returns:
        The first removed layer, and the scales.
    """
    scores = official_scores(model, windows, n)
    start = max(range(len(scores)), key=scores.__getitem__)
    return start, official_scales(model, windows, start, start + n, rotated=rotated)


def _reading(
    layer: nn.Module, number: int, callback: Callable[[int, torch.Tensor], None]
) -> RemovableHandle:
    """Call back with what a layer reads, each time it runs."""

    def read(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        callback(number, positional[0] if positional else named["hidden_states"])

    return layer.register_forward_pre_hook(read, with_kwargs=True)


def _run(model: PreTrainedModel, window: torch.Tensor) -> None:
    with torch.no_grad():
        model(input_ids=window[None].to(model.device), use_cache=True)
