"""LinearPatch's ablation without the rotation: rescale every channel of the residual stream.

The patch is ``x * d`` with ``d_k`` the mean absolute activation of channel k behind the gap over
the one in front of it. It costs ``hidden_size`` parameters per gap (row "+d" of the ablation).
A factor alpha other than 1 perturbs the scales on purpose: ``x * (alpha * d)``, which shows whether
the ratios are the best of their family (section 3.2, equations 4 and 5, figure 1b).
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from lpsteps.patches import Operation, PatchSet
from lpsteps.recovery.base import Need, RatioParams, RecoveryContext, patches_from_ratios

TITLE: Final = "Channel scaling (+d)"
PAPER: Final = "https://arxiv.org/abs/2505.24680"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(RatioParams):
    """Parameters of the channel scaling."""

    alpha: float = Field(default=1.0, gt=0, description="Factor on every scale")


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one scale per gap, or a chain of one per removed layer."""
    return patches_from_ratios(
        context, params, "identity", lambda ratios: Operation("scale", params.alpha * ratios)
    )
