"""The residual streams of the dense and of the repaired model, side by side, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.layers import decoder_of
from lpsteps.models.layerwise import LayerwiseModel

# A token whose squared norm exceeds the median by this factor holds massive activations. There are
# one or two in a window, their stream hardly depends on the text, and they would own every sum.
_MASSIVE = 10.0


class TwinStreams:
    """Two hidden states for every batch of calibration windows, moved through the model together.

    The dense stream is what the dense model computes. The repaired stream starts as the same and
    drifts away from it where layers are left out, repaired or replaced by stand-ins.

    Memory: the two streams in the dtype of the model, `2 * windows * length * hidden_size` numbers,
    whatever the number of layers.

    Attributes:
        dense: Hidden states of the dense model, one `[batch, length, hidden_size]` per batch.
        repaired: Hidden states of the repaired model, likewise.
    """

    def __init__(self, model: PreTrainedModel, windows: npt.NDArray[np.int64], batch: int) -> None:
        """Run the model once over the windows, to learn how its layers are called.

        Args:
            model: The dense model, in evaluation mode.
            windows: Token ids `[windows, length]`.
            batch: Windows per forward pass.

        Raises:
            LpstepsError: The family is unknown.
        """
        self._layers = decoder_of(model).layers
        self._batches = [
            LayerwiseModel(model, windows[first : first + batch])
            for first in range(0, len(windows), batch)
        ]
        self.dense: list[torch.Tensor] = [batch.embedded for batch in self._batches]
        self.repaired: list[torch.Tensor] = list(self.dense)

    def run_dense(self, layer: int) -> list[torch.Tensor]:
        """Return the dense streams behind a layer."""
        return [
            batch.run(layer, hidden)
            for batch, hidden in zip(self._batches, self.dense, strict=True)
        ]

    def run_repaired(self, layer: int, stand_in: nn.Module | None = None) -> list[torch.Tensor]:
        """Return the repaired streams behind a layer, or behind what stands in for it."""
        return [
            batch.run(layer, hidden, stand_in)
            for batch, hidden in zip(self._batches, self.repaired, strict=True)
        ]

    def inputs_of(
        self, projection: nn.Linear, layer: int, stand_in: nn.Module
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Run a stand-in on the repaired streams and watch what one of its projections reads.

        Args:
            projection: A part of the stand-in.
            layer: Number of the layer in the dense model.
            stand_in: What runs in its place.

        Yields:
            For each batch the rows that the projection reads, `[tokens, in_features]`, and the
            output of the stand-in, `[batch, length, hidden_size]`.
        """
        read: list[torch.Tensor] = []
        handle = projection.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            for batch, hidden in zip(self._batches, self.repaired, strict=True):
                output = batch.run(layer, hidden, stand_in)
                yield read.pop().reshape(output.shape[:-1].numel(), -1), output
        finally:
            handle.remove()


def ordinary_rows(streams: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tell the tokens without massive activations, a boolean mask `[tokens]` per batch."""
    squares = [stream.flatten(0, -2).double().square().sum(dim=1) for stream in streams]
    median = torch.cat(squares).median()
    return [square <= _MASSIVE * median for square in squares]
