"""A baseline without a metric: every k-th layer, evenly spread over the model.

The first and the last layer stay. The m layers between them are cut into n equal parts, and from
each part the layer in its middle goes: layer ``1 + floor((2 i + 1) m / (2 n))`` for part i of 0 to
``n - 1``. They are distinct whenever ``n <= m``; the score is the spacing ``m / n``.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked, too_few

TITLE: Final = "Evenly spread layers"
PAPER: Final = ""
KIND: Final[Kind] = "set"
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """The even spread has no parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def unsuited(params: Params, n: int, n_layers: int) -> str | None:
    """Return why n layers between the first and the last cannot go, or None."""
    return too_few(n, n_layers, n_layers - 2)


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Return the one candidate of every n; there is none for more layers than lie in between."""
    between = context.n_layers - 2
    candidates: list[Candidate] = []
    for n in context.counts:
        if n <= between:
            layers = tuple(1 + (2 * part + 1) * between // (2 * n) for part in range(n))
            candidates += ranked([Candidate(layers, between / n, eligible=True, n=n)])
    return Ranking(KIND, tuple(candidates))
