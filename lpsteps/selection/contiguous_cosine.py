"""LLM-Streamline's cosine: remove the window of layers that changes the stream's direction least.

The score of the window ``[s, s + n)`` is ``E[(1 + cos(X_s, X_{s+n})) / 2]``, the cosine taken over
the channels of each token, the mean first over the tokens of a sample and then over samples. The
highest score goes. ``X_L`` is the stream before the final norm; the authors' code reads it after
the norm, which penalises windows at the end of the model.
"""

from __future__ import annotations

from typing import Final

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranking_of_windows

TITLE: Final = "LLM-Streamline (contiguous cosine)"
PAPER: Final = "https://arxiv.org/abs/2403.19135"
KIND: Final[Kind] = "window"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(Exemptions):
    """Parameters of the contiguous cosine; LLM-Streamline itself exempts no layer."""


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank the windows of every n by falling cosine; of equal ones the lowest window goes first."""
    statistics = context.needed_statistics()
    return ranking_of_windows(
        context.counts,
        lambda n: ((1.0 + statistics.cosines(n)) / 2.0).mean(axis=0),
        params,
        descending=True,
    )
