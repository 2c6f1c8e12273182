"""Running the layers of a model one by one, to see what it would be without some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.layer_calls import LayerCall, watching_calls
from lpsteps.models.layers import decoder_of

# Logits held at a time: 64 MiB of float32, whatever the size of the vocabulary.
_LOGITS_PER_BLOCK = 1 << 24


class LayerwiseModel:
    """A causal language model whose decoder layers can be run one at a time, on fixed tokens.

    One forward pass records what the model hands to each layer besides the hidden state (masks,
    rotary embeddings), so that any layer can be run again on another hidden state.

    Attributes:
        n_layers: Decoder layers.
        embedded: Hidden state in front of the first layer, `[windows, length, hidden_size]`.
    """

    n_layers: int
    embedded: torch.Tensor

    def __init__(self, model: PreTrainedModel, tokens: npt.NDArray[np.int64]) -> None:
        """Run the model once and record the calls of its layers.

        Args:
            model: The dense model, in evaluation mode.
            tokens: Token ids `[windows, length]`, int64.

        Raises:
            LpstepsError: The family is unknown.
        """
        self._decoder = decoder_of(model)
        self.n_layers = len(self._decoder.layers)
        self._rows_per_block = max(
            1, _LOGITS_PER_BLOCK // model.config.get_text_config().vocab_size
        )
        device = model.get_input_embeddings().weight.device
        self._tokens = torch.from_numpy(tokens).to(device)
        self._calls: list[LayerCall] = []

        def record(layer: int, hidden: torch.Tensor, call: LayerCall) -> None:
            if layer == 0:
                self.embedded = hidden
            self._calls.append(call)

        with watching_calls(self._decoder.layers, record), torch.inference_mode():
            self._decoder.backbone(input_ids=self._tokens, use_cache=False)

    def run(
        self, layer: int, hidden: torch.Tensor, stand_in: nn.Module | None = None
    ) -> torch.Tensor:
        """Return the output of one layer, or of what stands in for it.

        Args:
            layer: Number of the layer.
            hidden: What it reads, `[windows, length, hidden_size]`.
            stand_in: A module that is called as the layer would be; None for the layer itself.

        Returns:
            The hidden state behind it, of the same shape.
        """
        module = self._decoder.layers[layer] if stand_in is None else stand_in
        with torch.inference_mode():
            return self._calls[layer].run(module, hidden)

    def loss(self, hidden: torch.Tensor) -> float:
        """Return the mean cross-entropy over all predicted tokens.

        Args:
            hidden: Hidden state behind the last layer, `[windows, length, hidden_size]`.

        Returns:
            The loss in nats, from float32 logits, summed in float64.
        """
        total = 0.0
        with torch.inference_mode():
            # The last position predicts a token outside the window.
            rows = self._decoder.norm(hidden)[:, :-1].flatten(0, 1)
            targets = self._tokens[:, 1:].flatten()
            for start in range(0, len(rows), self._rows_per_block):
                block = slice(start, start + self._rows_per_block)
                logits = self._decoder.logits(rows[block]).float()
                losses = nn.functional.cross_entropy(
                    logits, targets[block].to(logits.device), reduction="none"
                )
                total += float(losses.sum(dtype=torch.float64))
        return total / len(targets)


def removal_losses(
    model: LayerwiseModel, alive: Sequence[int], spans: Iterable[range]
) -> Iterator[tuple[range, float]]:
    """Yield each span of layers with the loss of the model without it.

    Leaving out layers does not change the hidden state in front of them, so the prefix is computed
    once for all spans, and each costs the layers behind it and the output head. Only one prefix
    state is held, so memory does not grow with the depth of the model.

    Args:
        model: The model, with all its layers.
        alive: The layers that are still there, ascending.
        spans: Positions in `alive` to leave out, in ascending order of their starts.
    """
    hidden = model.embedded
    reached = 0
    for span in spans:
        for layer in alive[reached : span.start]:
            hidden = model.run(layer, hidden)
        reached = span.start
        without = hidden
        for layer in alive[span.stop :]:
            without = model.run(layer, without)
        yield span, model.loss(without)
