"""Magnitude: the layer with the smallest weights goes first.

The importance of a layer is the sum of the absolute values of its weight matrices and norm weights;
biases do not count. No text is read. As in Shortened LLaMA's code, the row "Mag+" of papers is
this with ``exempt_first: 4`` and ``exempt_last: 2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lpsteps.progress import track
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranked_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TITLE: Final = "Magnitude"
PAPER: Final = "https://arxiv.org/abs/2402.02834"
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})


class Params(Exemptions):
    """Parameters of the magnitude."""


def magnitudes(model: PreTrainedModel) -> list[float]:
    """Return the sum of the absolute weights of each decoder layer, added up in float64.

    Raises:
        LpstepsError: The family of the model is unknown.
    """
    import torch

    from lpsteps.models.weights import layer_weights

    return [
        sum(float(weight.abs().sum(dtype=torch.float64)) for weight in weights)
        for weights in track(layer_weights(model), "magnitude")
    ]


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and rank its layers by rising magnitude; the lowest of equal ones first."""
    return ranked_layers(magnitudes(context.needed_model().load()), params)
