"""Gromov et al.'s angular distance: remove the window that turns the last token's stream least.

The score of the window ``[s, s + n)`` is ``E[arccos(cos(X_s[T], X_{s+n}[T])) / pi]``, the cosine
taken over the channels of the last token T of a sample, the mean over samples; the lowest score
goes (section 3.2).

The stream is read before the final norm. PruneMe's implementation reads it after the norm at the
end of the model, and never takes the first layer: ``exempt_first: 1`` gives its candidates.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranking_of_windows

TITLE: Final = "Angular distance (Gromov et al.)"
PAPER: Final = "https://arxiv.org/abs/2403.17887"
KIND: Final[Kind] = "window"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(Exemptions):
    """Parameters of the angular distance; the paper exempts no layer."""


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank the windows of every n by rising distance; of equal ones the lowest goes first."""
    statistics = context.needed_statistics()

    def distances(n: int) -> npt.NDArray[np.float64]:
        # Rounding can push the cosine of parallel vectors past 1.
        angles = np.arccos(np.clip(statistics.last_token_cosines(n), -1.0, 1.0))
        means: npt.NDArray[np.float64] = angles.mean(axis=0) / np.pi
        return means

    return ranking_of_windows(context.counts, distances, params)
