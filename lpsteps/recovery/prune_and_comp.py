"""Prune&Comp: rescale the residual stream as a whole, by one number for each gap.

Layers make the stream grow, so without them the layers behind a gap read a stream that is too
small against what they add themselves. The number is the mean over samples and channels of a
channel's mean absolute activation behind the gap over the one in front of it (section 3.2). It
folds into weights, in every family, so that the repaired model costs nothing extra: the paper
multiplies what is written to the stream in front of the gap, :mod:`lpsteps.models.folding` divides
what is written behind it, which works with a head that is tied to the embedding, too.

The paper removes one layer at a time and chooses the next one on the repaired model. Here the plan
is given; ``grouping: per_layer`` multiplies the numbers of the single layers as the paper does.
"""

from __future__ import annotations

from typing import Final

from lpsteps.patches import Operation, PatchSet
from lpsteps.recovery.base import Need, RatioParams, RecoveryContext, patches_from_ratios

TITLE: Final = "Prune&Comp"
PAPER: Final = "https://arxiv.org/abs/2507.18212"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(RatioParams):
    """Parameters of Prune&Comp."""


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one scalar per gap, or a chain of one per removed layer."""
    return patches_from_ratios(
        context,
        params,
        "identity",
        lambda ratios: Operation("scalar", ratios.mean(keepdims=True)),
    )
