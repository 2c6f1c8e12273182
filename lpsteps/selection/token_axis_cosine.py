"""The cosine of LinearPatch's released code: along the tokens of each channel, not the channels.

LinearPatch says that it takes LLM-Streamline's cosine over the channels of each token (equation 2;
:mod:`lpsteps.selection.contiguous_cosine`). Its released selector instead compares what a channel
does along the text: the score of the window ``[s, s + n)`` is ``E[cos(X_s[:, k], X_{s+n}[:, k])]``,
the cosine taken over the tokens of channel k, the mean over the channels and then over samples. The
highest score goes.

As there, a window cannot contain the first or the last layer. Not followed is that the code starts
from a table of zeros, so that it would take layer 0 on if all scores were negative.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranking_of_windows

TITLE: Final = "Token-axis cosine (LinearPatch's code)"
PAPER: Final = "https://arxiv.org/abs/2505.24680"
KIND: Final[Kind] = "window"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(Exemptions):
    """Parameters of the token-axis cosine."""

    exempt_first: int = Field(default=1, ge=0, description="Layers at the start that must stay")
    exempt_last: int = Field(default=1, ge=0, description="Layers at the end that must stay")


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank the windows of every n by falling cosine; of equal ones the lowest window goes first."""
    statistics = context.needed_statistics()
    return ranking_of_windows(
        context.counts,
        lambda n: statistics.token_axis_cosines(n).mean(axis=0),
        params,
        descending=True,
    )
