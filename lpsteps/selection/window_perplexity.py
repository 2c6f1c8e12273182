"""An oracle for small models: try every window and measure the perplexity of what is left.

The score of the window ``[s, s + n)`` is the perplexity ``exp(mean loss per token)`` of the model
without it, not repaired, on calibration text. A window that touches an exempt layer is not tried.
For L layers and each n this runs about ``(L - n)^2 / 2`` layers and ``L - n`` output heads, which
is within reach where one pass over the text takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from lpsteps.calibration_text import TextParams, text_to_use
from lpsteps.progress import track
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Exemptions, Kind, Ranking, ranked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TITLE: Final = "Best window by perplexity"
PAPER: Final = ""
KIND: Final[Kind] = "window"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(TextParams, Exemptions):
    """Parameters of the search."""


def rank_by_search(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    counts: Sequence[int],
    params: Params,
) -> Ranking:
    """Try all windows of some lengths on a model in memory.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids ``[windows, length]``; the first ones are used, as ``params`` says.
        counts: Numbers of layers to remove.
        params: Parameters of the search.

    Returns:
        A ``window`` ranking; of equal perplexities the lowest window goes.

    Raises:
        LpstepsError: There is not enough text, or the family of the model is unknown.
    """
    from lpsteps.models.layerwise import LayerwiseModel, removal_losses

    layerwise = LayerwiseModel(model, text_to_use(windows, params))
    n_layers = layerwise.n_layers
    spans = [
        range(start, start + n)
        for start in range(n_layers)
        for n in counts
        if params.allow(start, start + n, n_layers)
    ]
    steps = track(removal_losses(layerwise, range(n_layers), spans), "windows", total=len(spans))
    perplexities = {span: float(np.exp(loss)) for span, loss in steps}
    candidates: list[Candidate] = []
    for n in counts:
        tried = [range(start, start + n) for start in range(n_layers - n + 1)]
        candidates += ranked(
            Candidate(tuple(span), perplexities.get(span), eligible=span in perplexities, n=n)
            for span in tried
        )
    return Ranking(KIND, tuple(candidates))


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and try all windows of the wanted numbers of layers."""
    source = context.needed_model()
    return rank_by_search(source.load(), source.windows, context.counts, params)
