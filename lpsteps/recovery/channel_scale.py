"""LinearPatch's ablation without the rotation: rescale every channel of the residual stream.

The patch is ``x * d`` with ``d_k`` the mean absolute activation of channel k behind the gap over
the one in front of it. It costs ``hidden_size`` parameters per gap (row "+d" of the ablation).
"""

from __future__ import annotations

from typing import Final

from lpsteps.patches import Operation, PatchSet
from lpsteps.recovery.base import Need, RatioParams, RecoveryContext, patches_from_ratios

TITLE: Final = "Channel scaling (+d)"
PAPER: Final = "https://arxiv.org/abs/2505.24680"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(RatioParams):
    """Parameters of the channel scaling."""


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one scale per gap, or a chain of one per removed layer."""
    return patches_from_ratios(
        context, params, "identity", lambda ratios: Operation("scale", ratios)
    )
