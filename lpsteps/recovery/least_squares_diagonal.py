"""Least squares over channel scales: what LinearPatch could reach with the scales fitted.

LinearPatch sets the scale of a channel to a ratio of mean absolute activations. In the same basis,
``d_k = <z_s,k, z_e,k> / |z_s,k|^2`` over the tokens in front of (s) and behind (e) the gap has the
least squared error of all scales, with the same number of parameters. The distance from LinearPatch
is the cost of matching magnitudes; the distance from ``least_squares`` is that of its family of
matrices.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.hadamard import basis_matrix
from lpsteps.least_squares import diagonal_scales
from lpsteps.patch_matrix import patch_matrix
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import RecoveryContext, WeightingParams, stream_need

TITLE: Final = "Least-squares scales"
PAPER: Final = ""

needs = stream_need


class Params(WeightingParams):
    """Parameters of the fitted scales."""

    basis: Literal["hadamard", "identity"] = Field(
        default="hadamard",
        description="Basis in which channels are rescaled; identity: scales of the raw channels",
    )


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one matrix per gap, or one scale in the identity basis; scales go to the audit."""
    gaps: list[GapPatch] = []
    audit: dict[str, npt.NDArray[np.float64]] = {}
    for index, gap in enumerate(context.needed_moments()):
        moments = gap.fit + gap.heldout
        if params.basis == "identity":
            scales = diagonal_scales(np.diag(moments.source_source), np.diag(moments.source_target))
            operation = Operation("scale", scales)
        else:
            basis = basis_matrix(context.hidden_size, params.basis).matrix
            scales = diagonal_scales(
                (basis * (moments.source_source @ basis)).sum(axis=0),
                (basis * (moments.source_target @ basis)).sum(axis=0),
            )
            operation = Operation("matrix", patch_matrix(basis, scales))
        gaps.append(GapPatch(gap.start, gap.end, (operation,)))
        audit[f"gaps.{index}.d"] = scales
    return PatchSet(tuple(gaps), audit)
