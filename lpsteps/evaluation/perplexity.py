"""Perplexity of running text in windows of equal length.

The protocol of the published numbers (GPTQ's evaluation loop): the text is one token stream cut
into windows that do not overlap, every window starts afresh, and

    perplexity = exp(mean over windows of (mean over tokens of -log p(token | window so far)))

where the first token of a window is not predicted. Of a model whose entry says `bos_in_windows` it
is the BOS token, so that all of the text is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lpsteps.evaluation.logits import target_log_probabilities
from lpsteps.models.layers import decoder_of
from lpsteps.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Perplexity:
    """A perplexity and the standard error that the spread between windows implies."""

    value: float
    stderr: float | None


@torch.inference_mode()
def window_losses(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], *, batch: int = 1
) -> list[float]:
    """Mean negative log-likelihood of the predicted tokens of each window, in nats.

    Args:
        model: Decoder-only model, in evaluation mode.
        windows: Token ids [windows, length], length at least 2.
        batch: Windows per forward pass.
    """
    decoder = decoder_of(model)
    losses: list[float] = []
    for start in track(range(0, len(windows), batch), "perplexity"):
        tokens = torch.from_numpy(windows[start : start + batch]).to(model.device)
        hidden = decoder.backbone(input_ids=tokens, use_cache=False).last_hidden_state
        log_probabilities = target_log_probabilities(
            decoder, hidden[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
        # A sum of thousands of float32 numbers would lose digits that the tables show.
        per_window = log_probabilities.double().view(len(tokens), -1)
        losses.extend((-per_window.mean(dim=1)).tolist())
    return losses


def perplexity(losses: Sequence[float]) -> Perplexity:
    """Perplexity from the mean loss of each window.

    The standard error follows from that of the mean loss by the delta method: d exp(m) = exp(m) dm.
    A single window has none.
    """
    n = len(losses)
    mean = math.fsum(losses) / n
    value = math.exp(mean)
    if n == 1:
        return Perplexity(value, None)
    variance = math.fsum((loss - mean) ** 2 for loss in losses) / (n - 1)
    return Perplexity(value, value * math.sqrt(variance / n))
