"""Shortened LLaMA's perplexity: measure the model without each layer, once, and remove the best.

The score of a layer is the perplexity ``exp(mean loss per token)`` of the model that lacks this
layer alone (section 3.1). Unlike SLEB it is not measured again after a removal. All layers are
scored, also the ones that are exempt.

The row "PPL+" of papers is this with ``exempt_first: 4`` and ``exempt_last: 2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from lpsteps.calibration_text import TextParams, text_to_use
from lpsteps.progress import track
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranked_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TITLE: Final = "Perplexity, one-shot"
PAPER: Final = "https://arxiv.org/abs/2402.02834"
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(TextParams, Exemptions):
    """Parameters of the perplexity metric; the paper takes 10 windows of 128 tokens."""


def perplexities(model: PreTrainedModel, windows: npt.NDArray[np.int64]) -> list[float]:
    """Return the perplexity of a model without each one of its layers.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids ``[windows, length]``.

    Raises:
        LpstepsError: The family of the model is unknown.
    """
    from lpsteps.models.layerwise import LayerwiseModel, removal_losses

    layerwise = LayerwiseModel(model, windows)
    layers = range(layerwise.n_layers)
    spans = [range(layer, layer + 1) for layer in layers]
    steps = track(removal_losses(layerwise, layers, spans), "perplexity", total=len(spans))
    return [float(np.exp(loss)) for _, loss in steps]


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and rank its layers by rising perplexity; the lowest of equal ones first."""
    source = context.needed_model()
    windows = text_to_use(source.windows, params)
    return ranked_layers(perplexities(source.load(), windows), params)
