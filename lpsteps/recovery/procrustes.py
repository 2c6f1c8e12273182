"""Procrustes: the best repair that a stock architecture can absorb.

A map of the residual stream can be folded into the weights behind it exactly if it changes every
row's norm by the same factor: a number times an orthogonal matrix, ``c Q``. An RMSNorm without
weights forgets the number and commutes with the rotation, so the layers behind the gap can work on
the stream as it was (:mod:`lpsteps.models.folding`). (Prune&Comp is ``Q = I``; the rotations of
QuaRot, https://arxiv.org/abs/2404.00456, are ``c = 1``.) Of these maps this one has the least
squared error (P. Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966).

It costs ``hidden_size ** 2`` parameters per gap. Folded it costs none, unless the language-model
head is tied to the embedding: the head is rotated and the embedding is not, which unties them, for
``vocabulary * hidden_size`` further parameters. It folds in families whose branches have an RMSNorm
in front and no norm behind: Llama, Mistral, Qwen 2, Qwen 3 and Phi 3.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lpsteps.least_squares import scaled_rotation
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import RecoveryContext, WeightingParams, stream_need

TITLE: Final = "Procrustes"
PAPER: Final = ""

needs = stream_need


class Params(WeightingParams):
    """Parameters of the Procrustes fit."""


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
