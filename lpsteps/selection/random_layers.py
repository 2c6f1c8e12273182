"""A random choice, the floor that a metric has to beat.

The first and the last layer stay, as in the metrics that this baseline is compared with. Layers are
ranked once, so the layers chosen for one n are among those chosen for every larger n.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked, too_few

TITLE: Final = "Random layers"
PAPER: Final = ""
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """Parameters of the draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draw: int = Field(default=0, ge=0, description="Number of the draw, added to the run's seed")


def unsuited(params: Params, n: int, n_layers: int) -> str | None:
    """Return why n layers between the first and the last cannot go, or None."""
    return too_few(n, n_layers, n_layers - 2)


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank single layers by uniform random scores."""
    scores = np.random.default_rng(context.seed + params.draw).random(context.n_layers)
    layers = (
        Candidate((layer,), float(score), eligible=0 < layer < context.n_layers - 1)
        for layer, score in enumerate(scores)
    )
    return Ranking(KIND, ranked(layers))
