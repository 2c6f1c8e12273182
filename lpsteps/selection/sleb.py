"""SLEB: remove layers one by one, each time the one whose absence costs the least perplexity.

In every round each layer that is still there, except the first and the last, is left out in turn,
and the language-modelling loss of the remaining model is measured on calibration text. The layer
with the smallest loss goes for good; of equal losses the lowest layer goes.

A round over ``m`` layers would cost ``m`` forward passes. Leaving out a layer does not change the
hidden state in front of it, so here the prefix is computed once per round and a candidate costs the
layers behind it and the output head: less than half the work, with exactly the same losses. Only
one prefix state is held, so memory does not grow with the depth of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError
from lpsteps.progress import track
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TITLE: Final = "SLEB"
PAPER: Final = "https://arxiv.org/abs/2402.09025"
KIND: Final[Kind] = "sequence"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})

# Logits held at a time: 64 MiB of float32, whatever the size of the vocabulary.
_LOGITS_PER_BLOCK = 1 << 24


class Params(BaseModel):
    """Parameters of SLEB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(ge=1, description="Calibration windows to measure the loss on")
    length: int = Field(ge=2, description="Tokens of each window to use")
    early_barrier: int = Field(
        default=1, ge=0, description="Layers at the start that stay, counted in every round"
    )
    latter_barrier: int = Field(
        default=1, ge=0, description="Layers at the end that stay, counted in every round"
    )


class LayerwiseModel:
    """A causal language model whose decoder layers can be run one at a time, on fixed tokens.

    One forward pass records what the model hands to each layer besides the hidden state (masks,
    rotary embeddings), so that any layer can be run again on another hidden state.

    Attributes:
        embedded: Hidden state in front of the first layer, ``[windows, length, hidden_size]``.
    """

    embedded: torch.Tensor

    def __init__(self, model: PreTrainedModel, tokens: npt.NDArray[np.int64]) -> None:
        """Run the model once and record the calls of its layers.

        Args:
            model: The dense model, in evaluation mode.
            tokens: Token ids ``[windows, length]``, int64.

        Raises:
            LpstepsError: The family is unknown.
        """
        import torch

        from lpsteps.models.layers import decoder_of

        self._decoder = decoder_of(model)
        vocabulary = model.config.get_text_config().vocab_size
        self._rows_per_block = max(1, _LOGITS_PER_BLOCK // vocabulary)
        device = model.get_input_embeddings().weight.device
        self._tokens = torch.from_numpy(tokens).to(device)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def record(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._calls:
                self.embedded = args[0] if args else kwargs["hidden_states"]
            kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self._calls.append((args[1:], kwargs))

        hooks = [
            layer.register_forward_pre_hook(record, with_kwargs=True)
            for layer in self._decoder.layers
        ]
        try:
            with torch.inference_mode():
                self._decoder.backbone(input_ids=self._tokens, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    def run(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return the output of one layer, ``[windows, length, hidden_size]`` like its input."""
        import torch

        args, kwargs = self._calls[layer]
        with torch.inference_mode():
            output = self._decoder.layers[layer](hidden, *args, **kwargs)
        state: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return state

    def loss(self, hidden: torch.Tensor) -> float:
        """Return the mean cross-entropy per predicted token, summed over the windows.

        Args:
            hidden: Hidden state behind the last layer, ``[windows, length, hidden_size]``.

        Returns:
            The loss in nats, from float32 logits, summed in float64.
        """
        import torch
        from torch.nn.functional import cross_entropy

        total = 0.0
        with torch.inference_mode():
            # The last position predicts a token outside the window.
            rows = self._decoder.norm(hidden)[:, :-1].flatten(0, 1)
            targets = self._tokens[:, 1:].flatten()
            for start in range(0, len(rows), self._rows_per_block):
                block = slice(start, start + self._rows_per_block)
                logits = self._decoder.logits(rows[block]).float()
                losses = cross_entropy(logits, targets[block].to(logits.device), reduction="none")
                total += float(losses.sum(dtype=torch.float64))
        return total / (self._tokens.shape[1] - 1)


def removal_losses(
    model: LayerwiseModel, alive: Sequence[int], removable: range
) -> Iterator[tuple[int, float]]:
    """Yield each removable layer with the loss of the model without it.

    Args:
        model: The model, with all its layers.
        alive: The layers that are still there, ascending.
        removable: Positions in ``alive`` of the layers to try.
    """
    hidden = model.embedded
    for position in range(removable.stop):
        layer = alive[position]
        if position in removable:
            without = hidden
            for later in alive[position + 1 :]:
                without = model.run(later, without)
            yield layer, model.loss(without)
        if position + 1 < removable.stop:
            hidden = model.run(layer, hidden)


def rank_by_removal(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], rounds: int, params: Params
) -> Ranking:
    """Run SLEB's rounds on a model in memory.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids ``[windows, length]``; the first ones are used, as ``params`` says.
        rounds: Number of layers to give up.
        params: Parameters of SLEB.

    Returns:
        A ``sequence`` ranking; the barriers' layers are in it without a score.

    Raises:
        LpstepsError: There is not enough text, a round has no layer left that it may take, or
            :class:`LayerwiseModel` does not know the model.
    """
    available, length = windows.shape
    if available < params.windows or length < params.length:
        raise LpstepsError(
            f"windows: {params.windows} x {params.length} tokens: the calibration text has "
            f"{available} x {length}; ask for less or calibrate on more"
        )
    layerwise = LayerwiseModel(model, windows[: params.windows, : params.length])
    alive = list(range(model.config.get_text_config().num_hidden_layers))
    candidates: list[Candidate] = []
    for number in range(1, rounds + 1):
        removable = range(params.early_barrier, len(alive) - params.latter_barrier)
        if not removable:
            raise LpstepsError(
                f"n: {rounds}: in round {number} no layer is left between the barriers; "
                "remove fewer layers or lower early_barrier and latter_barrier"
            )
        steps = track(
            removal_losses(layerwise, alive, removable),
            f"SLEB round {number} of {rounds}",
            total=len(removable),
        )
        losses = dict(steps)
        competing = ranked(
            Candidate((layer,), losses.get(layer), eligible=layer in losses, round=number)
            for layer in alive
        )
        candidates += competing
        (winner,) = (row for row in competing if row.rank == 1)
        alive.remove(winner.layers[0])
    return Ranking(KIND, tuple(candidates))


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and rank its layers, as many rounds as the largest wanted plan needs."""
    from lpsteps.models.loading import configure_torch, load_model, read_compute

    source = context.needed_model()
    configure_torch()
    compute = read_compute(source.compute)
    model = load_model(source.folder, compute.dtype, device=compute.device)
    return rank_by_removal(model, source.windows, max(context.counts), params)
