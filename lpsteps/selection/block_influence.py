"""ShortGPT's block influence: a layer that hardly turns the residual stream can go.

The influence of layer l is ``BI_l = 1 - E[cos(X_l, X_{l+1})]``, the cosine taken over the channels
of each token, the mean over tokens and samples. Layers leave in the order of rising influence,
wherever they are in the model.
"""

from __future__ import annotations

from typing import Final

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranked_layers

TITLE: Final = "ShortGPT (block influence)"
PAPER: Final = "https://arxiv.org/abs/2403.03853"
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(Exemptions):
    """Parameters of the block influence; ShortGPT itself exempts no layer."""


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank all layers by rising block influence; of equal ones the lowest layer goes first."""
    cosines = context.needed_statistics().cosines(1)
    return ranked_layers(1.0 - cosines.mean(axis=0), params)
