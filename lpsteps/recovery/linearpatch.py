"""LinearPatch: rescale the channels of the residual stream in a rotated basis.

A few channels of a few tokens hold massive activations, so one scale per raw channel fits no token
well. An orthonormal Hadamard basis H spreads them over all channels; scaled there and rotated back,
the patch is the matrix ``P = H diag(d) H^T`` on rows, ``x @ P = ((x @ H) * d) @ H^T`` (row "+P" of
the ablation). P is symmetric, and positive definite because every ratio is positive. It costs
``hidden_size ** 2`` parameters per gap.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from lpsteps.errors import LpstepsError
from lpsteps.patch_matrix import patch_matrix
from lpsteps.patches import Operation, PatchSet
from lpsteps.recovery.base import Need, RatioParams, RecoveryContext, patches_from_ratios

TITLE: Final = "LinearPatch"
PAPER: Final = "https://arxiv.org/abs/2505.24680"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics"})


class Params(RatioParams):
    """Parameters of LinearPatch."""

    basis: Literal["hadamard"] = Field(
        default="hadamard", description="Basis in which channels are rescaled"
    )


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one matrix per gap, or a chain of one per removed layer.

    Raises:
        LpstepsError: The statistics were taken in another basis than the one constructed here.
    """
    from lpsteps.hadamard import basis_matrix

    statistics = context.needed_statistics()
    basis = basis_matrix(context.hidden_size, params.basis)
    if statistics.basis_name != basis.name:
        raise LpstepsError(
            f"--stats: basis '{statistics.basis_name}': the patch needs '{basis.name}'; "
            "calibrate again"
        )
    return patches_from_ratios(
        context,
        params,
        params.basis,
        lambda ratios: Operation("matrix", patch_matrix(basis.matrix, ratios)),
    )
