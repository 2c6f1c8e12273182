"""Procrustes: the best repair that a stock architecture can absorb.

A map of the residual stream can be folded into the weights in front of it exactly if it changes
every row's norm by the same factor, because normalised readers can undo anything but a change of
norms: a number times an orthogonal matrix, ``c Q``. (Prune&Comp is ``Q = I``; the rotations of
QuaRot, https://arxiv.org/abs/2404.00456, are ``c = 1``.) Of these maps this one has the least
squared error (P. Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966).

Unfolded it costs ``hidden_size ** 2`` parameters per gap, folded it costs nothing.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.least_squares import scaled_rotation
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import Need, RecoveryContext

TITLE: Final = "Procrustes"
PAPER: Final = ""


class Params(BaseModel):
    """Parameters of the Procrustes fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weighting: Literal["uniform", "inverse_norm"] = Field(
        default="uniform",
        description="Weight of a token: the same for all, or less the larger its activations are",
    )


def needs(params: Params) -> frozenset[Need]:
    """Return the moments that belong to the weighting."""
    return frozenset(
        {"stream-moments" if params.weighting == "uniform" else "weighted-stream-moments"}
    )


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one rotation per gap; scale and errors before and after go to the audit."""
    gaps: list[GapPatch] = []
    audit: dict[str, npt.NDArray[np.float64]] = {}
    for index, gap in enumerate(context.needed_moments()):
        moments = gap.fit + gap.heldout
        scale, rotation = scaled_rotation(moments.source_source, moments.source_target)
        matrix = scale * rotation
        gaps.append(GapPatch(gap.start, gap.end, (Operation("rotation", matrix),)))
        audit[f"gaps.{index}.scale"] = np.array([scale])
        audit[f"gaps.{index}.errors"] = np.array(
            [moments.error(np.eye(context.hidden_size)), moments.error(matrix)]
        )
    return PatchSet(tuple(gaps), audit)
