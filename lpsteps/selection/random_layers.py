"""A random choice, the floor that a metric has to beat.

The first and the last layer stay, as in the metrics that this baseline is compared with. Draws
depend on the seed alone, never on which other numbers of layers are asked for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked

TITLE: Final = "Random layers"
PAPER: Final = ""
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """Parameters of the draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contiguous: bool = Field(default=False, description="Draw one window instead of single layers")
    draw: int = Field(default=0, ge=0, description="Number of the draw, added to the run's seed")


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank candidates by uniform random scores.

    Single layers (a ``single`` ranking) are ranked once, so the layers chosen for one n are among
    those chosen for every larger n. Windows (a ``window`` ranking) are drawn anew for each n.
    """
    seed = context.seed + params.draw
    if not params.contiguous:
        scores = np.random.default_rng(seed).random(context.n_layers)
        layers = (
            Candidate((layer,), float(score), eligible=0 < layer < context.n_layers - 1)
            for layer, score in enumerate(scores)
        )
        return Ranking("single", ranked(layers))
    candidates: list[Candidate] = []
    for n in context.counts:
        scores = np.random.default_rng([seed, n]).random(context.n_layers - n + 1)
        windows = (
            Candidate(
                tuple(range(start, start + n)),
                float(score),
                eligible=0 < start < context.n_layers - n,
                n=n,
            )
            for start, score in enumerate(scores)
        )
        candidates += ranked(windows)
    return Ranking("window", tuple(candidates))
