"""What both variants of LLM-Streamline share: train one module to do the work of removed layers.

The module reads what the first removed layer reads in the dense model and is trained, by the mean
squared error, to return what the layer after the gap reads (arXiv 2403.19135, the part on layer
replacement). Both are recomputed for every batch by the frozen layers in front of the gap and
inside it, so nothing is stored, however long the text is.

Learning rates, warm-up, weight decay, clipping and one epoch are those of the released code for
this loss. It takes an optimiser step per 128 sequences, accumulated over 16 micro-batches of 8, of
100 000 documents; here ``batch`` is the whole batch of a step, because the text is short. The decay
rates of AdamW's moments are those that the code sets in its other training, on the loss of the
language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from lpsteps.training import AdamW, LossCurve, TrainingParams, TrainingText, train_on_text

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from lpsteps.models.gap_pass import GapPass


class StreamlineParams(TrainingParams):
    """Parameters of LLM-Streamline."""

    epochs: int = Field(
        default=1, ge=0, description="Passes over the text; 0 leaves the module as it starts"
    )
    batch: int = Field(default=8, ge=1, description="Sequences per step")
    learning_rate: float = Field(default=2e-4, gt=0, description="Highest learning rate")
    final_learning_rate: float = Field(
        default=5e-5, ge=0, description="Learning rate at the end of the cosine decay"
    )


def imitate_gap(
    model: PreTrainedModel,
    gap: tuple[int, int],
    parameters: Sequence[nn.Parameter],
    replacement: Callable[[GapPass], torch.Tensor],
    text: TrainingText,
    params: StreamlineParams,
    *,
    seed: int,
) -> LossCurve:
    """Train the parameters of a module that replaces the layers of a gap, in place.

    Args:
        model: The dense model; it does not change.
        gap: The removed layers ``(start, end)``, end exclusive.
        parameters: Parameters of the module, float32.
        replacement: The module on one batch: from what enters the gap to its output, float32
            ``[batch, tokens, hidden_size]``.
        text: What to train on.
        params: Epochs, batch and learning rates.
        seed: Seed of the order of the sequences.

    Raises:
        LpstepsError: The loss is not a finite number.
    """
    from torch.nn.functional import mse_loss

    from lpsteps.models.gap_pass import read_gap

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        batch = read_gap(model, tokens, *gap)
        return mse_loss(replacement(batch), batch.target)

    optimiser = AdamW(
        params.learning_rate,
        params.final_learning_rate,
        warmup=0.01,
        weight_decay=1e-3,
        betas=(0.9, 0.95),
        clip=5.0,
    )
    description = f"layers {gap[0]} to {gap[1] - 1}"
    return train_on_text(
        parameters, loss, text, params, optimiser, seed=seed, description=description
    )
