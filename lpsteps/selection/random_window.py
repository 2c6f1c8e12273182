"""A random window, the floor that a metric of windows has to beat.

The first and the last layer stay, as in the metrics that this baseline is compared with. Windows
are drawn anew for each n; a draw depends on the seed and on n alone, never on which other numbers
of layers are asked for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranking_of_windows, too_few

TITLE: Final = "Random window"
PAPER: Final = ""
KIND: Final[Kind] = "window"
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """Parameters of the draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draw: int = Field(default=0, ge=0, description="Number of the draw, added to the run's seed")


def unsuited(params: Params, n: int, n_layers: int) -> str | None:
    """Return why n layers between the first and the last cannot go, or None."""
    return too_few(n, n_layers, n_layers - 2)


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank the windows of every n by uniform random scores."""
    seed = context.seed + params.draw

    def scores(n: int) -> list[float]:
        return list(np.random.default_rng([seed, n]).random(context.n_layers - n + 1))

    return ranking_of_windows(context.counts, scores, Exemptions(exempt_first=1, exempt_last=1))
