"""The simplest baseline: cut the model short."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked

TITLE: Final = "Last layers"
PAPER: Final = "https://arxiv.org/abs/2411.15558"
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """Parameters of the cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_final: bool = Field(
        default=False, description="Keep the very last layer and cut the ones before it"
    )


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank the layers from last to first; the score is the number of layers behind a layer."""
    final = context.n_layers - 1
    candidates = (
        Candidate(
            (layer,), float(final - layer), eligible=not (params.keep_final and layer == final)
        )
        for layer in range(context.n_layers)
    )
    return Ranking(KIND, ranked(candidates))
