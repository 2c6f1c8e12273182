"""SLEB: remove layers one by one, each time the one whose absence costs the least perplexity.

In every round each layer that is still there, except the first and the last, is left out in turn,
and the language-modelling loss of the remaining model is measured on calibration text. The layer
with the smallest loss goes for good; of equal losses the lowest layer goes.

A round over ``m`` layers would cost ``m`` forward passes. Here the layers in front of a candidate
are not run again for it (:mod:`lpsteps.models.layerwise`): less than half the work, with exactly
the same losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.calibration_text import TextParams, WantedText, text_to_use
from lpsteps.errors import LpstepsError
from lpsteps.progress import track
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked, too_few

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TITLE: Final = "SLEB"
PAPER: Final = "https://arxiv.org/abs/2402.09025"
KIND: Final[Kind] = "sequence"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


# The original reads 128 documents of WikiText-2, about four windows of 2,048 tokens, where
# LinearPatch and others calibrate on 128 such windows.
_ONE_WINDOW_IN = 32


class Params(BaseModel):
    """Parameters of SLEB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int | None = Field(
        default=None,
        ge=1,
        description=f"Calibration windows to run the model on; null: one in {_ONE_WINDOW_IN}, at "
        "least one",
    )
    length: int | None = Field(
        default=None, ge=2, description="Tokens of each window to use; null: all"
    )
    early_barrier: int = Field(
        default=1, ge=0, description="Layers at the start that stay, counted in every round"
    )
    latter_barrier: int = Field(
        default=1, ge=0, description="Layers at the end that stay, counted in every round"
    )

    @property
    def wanted_text(self) -> WantedText:
        """The text that is needed."""
        return WantedText(self.windows, self.length)


def unsuited(params: Params, n: int, n_layers: int) -> str | None:
    """Return why n layers between the barriers cannot go, or None."""
    return too_few(n, n_layers, n_layers - params.early_barrier - params.latter_barrier)


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
        A ``sequence`` ranking with the mean loss per token, in nats, as the score; the barriers'
        layers are in it without a score.

    Raises:
        LpstepsError: There is not enough text, a round has no layer left that it may take, or the
            family of the model is unknown.
    """
    from lpsteps.models.layerwise import LayerwiseModel, removal_losses

    available, length = windows.shape
    wanted = TextParams(
        windows=params.windows or max(1, available // _ONE_WINDOW_IN),
        length=params.length or length,
    )
    layerwise = LayerwiseModel(model, text_to_use(windows, wanted))
    alive = list(range(layerwise.n_layers))
    candidates: list[Candidate] = []
    for number in range(1, rounds + 1):
        removable = range(params.early_barrier, len(alive) - params.latter_barrier)
        if not removable:
            raise LpstepsError(
                f"n: {rounds}: in round {number} no layer is left between the barriers; "
                "remove fewer layers or lower early_barrier and latter_barrier"
            )
        steps = track(
            removal_losses(layerwise, alive, [range(at, at + 1) for at in removable]),
            f"SLEB round {number} of {rounds}",
            total=len(removable),
        )
        losses = {alive[span.start]: loss for span, loss in steps}
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
    source = context.needed_model()
    return rank_by_removal(source.load(), source.windows, max(context.counts), params)
