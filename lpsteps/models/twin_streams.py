"""The residual streams of the dense and of the repaired model, side by side, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.gap_pass import run_until
from lpsteps.models.layerwise import LayerwiseModel
from lpsteps.models.overflow import overflow_error

# A token whose squared norm exceeds the median by this factor holds massive activations, as the
# first token of a window usually does. A few such tokens would own every sum of squares.
_MASSIVE = 10.0


class TwinStreams:
    """Two hidden states for every batch of calibration windows, moved through the model together.

    The dense stream is what the dense model computes. The repaired stream starts as the same and
    drifts away from it where layers are left out, repaired or replaced by stand-ins.

    Memory beside the model's own: two streams of `windows * length * hidden_size` numbers in the
    model's dtype, whatever the number of layers, and what one batch needs in one layer.

    Attributes:
        dense: Hidden states of the dense model, one `[batch, length, hidden_size]` per batch.
        repaired: Hidden states of the repaired model, likewise.
    """

    def __init__(self, model: PreTrainedModel, windows: npt.NDArray[np.int64], batch: int) -> None:
        """Embed the windows, and learn from one batch how the model calls its layers.

        Args:
            model: The dense model, in evaluation mode.
            windows: Token ids `[windows, length]`, without padding.
            batch: Windows per forward pass.

        Raises:
            LpstepsError: The family is unknown.
        """
        batches = [windows[first : first + batch] for first in range(0, len(windows), batch)]
        # Masks and rotary embeddings depend on the shape of a batch alone; the last may be smaller.
        shapes = {len(tokens): tokens for tokens in batches}
        self._callers = {size: LayerwiseModel(model, tokens) for size, tokens in shapes.items()}
        self.dense: list[torch.Tensor] = []
        for tokens in batches:
            with watching_boundaries(model, lambda _, hidden: self.dense.append(hidden)):
                run_until(model, torch.from_numpy(tokens), 0)
        self.repaired: list[torch.Tensor] = list(self.dense)

    def run_dense(self, layer: int) -> None:
        """Move the dense stream through a layer of the dense model."""
        for index, hidden in enumerate(self.dense):
            self.dense[index] = self._callers[len(hidden)].run(layer, hidden)

    def run_repaired(self, layer: int, stand_in: nn.Module) -> None:
        """Move the repaired stream through what stands in for a layer."""
        for index, hidden in enumerate(self.repaired):
            self.repaired[index] = self._callers[len(hidden)].run(layer, hidden, stand_in)

    def read_by(
        self, projection: nn.Linear, layer: int, stand_in: nn.Module
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Run a stand-in on the repaired stream, which stays, and watch one of its projections.

        Args:
            projection: A part of the stand-in.
            layer: Number of the layer in the dense model.
            stand_in: What runs in its place.

        Yields:
            For each batch the rows that the projection reads, `[tokens, in_features]`, and the rows
            that the stand-in returns, `[tokens, hidden_size]`.
        """
        read: list[torch.Tensor] = []
        handle = projection.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            for hidden in self.repaired:
                rows = self._callers[len(hidden)].run(layer, hidden, stand_in).flatten(0, -2)
                yield read.pop().reshape(len(rows), -1).to(rows.device), rows
        finally:
            handle.remove()


def ordinary_tokens(streams: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tell the tokens without massive activations, a boolean mask `[tokens]` per batch.

    Raises:
        LpstepsError: An activation is not finite.
    """
    squares = [stream.flatten(0, -2).double().square().sum(dim=1) for stream in streams]
    median = torch.cat(squares).median()
    if not all(square.isfinite().all() for square in squares):
        raise overflow_error(streams[0].dtype)
    return [square <= _MASSIVE * median for square in squares]


def relative_errors(
    dense: Sequence[torch.Tensor], repaired: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """Return the squared distance of two streams relative to the square of the first.

    Args:
        dense: What is expected, one tensor `[..., hidden_size]` per batch.
        repaired: What was found, likewise.

    Returns:
        Over the ordinary tokens, and over those with massive activations (0 when there are none).
    """
    distances, squares = [0.0, 0.0], [0.0, 0.0]
    for expected, found, ordinary in zip(dense, repaired, ordinary_tokens(dense), strict=True):
        rows = expected.flatten(0, -2).double()
        missing = found.flatten(0, -2).double() - rows
        for kind, tokens in enumerate((ordinary, ~ordinary)):
            distances[kind] += float(missing[tokens].square().sum())
            squares[kind] += float(rows[tokens].square().sum())
    ordinary_error, massive_error = (
        distance / square if square else 0.0
        for distance, square in zip(distances, squares, strict=True)
    )
    return ordinary_error, massive_error
