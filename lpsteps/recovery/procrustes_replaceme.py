"""Procrustes and ReplaceMe together: all that folds exactly into the weights around a gap.

A stock architecture can absorb a scaled rotation ``c Q`` of the stream, in the layers behind a gap,
and any map T of the last MLP output m in front of it. With A and B the stream in front of the gap
and behind it, and ``y = A - m``, they are fitted in turn to ``|(y + m T) c Q - B|^2``:

- given T, ``c Q`` is the solution of the orthogonal Procrustes problem from ``y + m T`` to B;
- given ``c Q``, ``T' = T c Q`` solves the least-squares problem ``|y c Q + m T' - B|^2``
  (ReplaceMe, https://arxiv.org/abs/2505.02819, section 2), and ``T = T' (c Q)^-1``.

Each step has the least error that it can have given the other, so no round makes it larger. T goes
into the layer's output projection at once. The rotation is an operation of ``hidden_size ** 2``
parameters per gap until it is folded; where, and at which cost for a language-model head that is
tied to the embedding, is told in :mod:`lpsteps.recovery.procrustes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.least_squares import Regression, RidgeSolver, scaled_rotation
from lpsteps.models.families import fixed_projections
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import Need, RecoveryContext
from lpsteps.recovery.replaceme import branch_gaps

if TYPE_CHECKING:
    from lpsteps.moments import BranchMoments

TITLE: Final = "Procrustes + ReplaceMe"
PAPER: Final = ""
NEEDS: Final[frozenset[Need]] = frozenset({"branch-moments", "model"})


class Params(BaseModel):
    """Parameters of the joint fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(
        default=3, ge=1, description="How often rotation and MLP output are fitted in turn"
    )
    relative_ridge: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Ridge that draws T to the identity, in units of the mean eigenvalue of m'm",
    )


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why the projections of a family cannot be transformed, or None where they can."""
    return fixed_projections(family)


@dataclass(frozen=True, eq=False)
class JointFit:
    """A scaled rotation of the stream and a map of the last MLP output in it.

    Attributes:
        rotation: ``c Q``, ``[hidden_size, hidden_size]``.
        transform: T, ``[hidden_size, hidden_size]``; the repaired row is ``(y + m T) c Q``.
        errors: Sums of squares without repair and after every step, ``[1 + 2 * rounds]``.
    """

    rotation: npt.NDArray[np.float64]
    transform: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]


def fit_jointly(moments: BranchMoments, params: Params) -> JointFit:
    """Alternate between the two problems.

    The ridge is ``ridge * |T' - c Q|^2``, so that the penalised error never grows either.

    Raises:
        LpstepsError: The moments are not finite, or the streams do not correlate.
    """
    gram = moments.branch_branch
    identity = np.eye(len(gram))
    change = np.zeros_like(gram)  # T - I
    errors = [moments.error(identity)]
    for _ in range(params.rounds):
        crossed = change.T @ moments.branch_source
        scale, orthogonal = scaled_rotation(
            moments.source_source + crossed + crossed.T + change.T @ gram @ change,
            moments.source_target + change.T @ moments.branch_target,
            penalty=params.relative_ridge * np.trace(gram) / len(gram) * np.vdot(change, change),
        )
        rotation = scale * orthogonal
        rest = Regression(
            gram,
            moments.branch_target - moments.branch_source @ rotation,
            moments.error(rotation),
        )
        errors.append(rest.error(change @ rotation))
        rotated_change = RidgeSolver(rest).solve(params.relative_ridge * rest.scale)
        errors.append(rest.error(rotated_change))
        change = rotated_change @ orthogonal.T / scale
    return JointFit(rotation, identity + change, np.array(errors))


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build one rotation and refit one output projection per gap; errors go to the audit.

    Raises:
        LpstepsError: The moments are missing, foreign or not finite.
    """
    from lpsteps.models.branch_fold import folded_branch

    measured = branch_gaps(context)
    model = context.needed_model().load()
    gaps: list[GapPatch] = []
    replacements: dict[str, npt.NDArray[np.float64]] = {}
    audit: dict[str, npt.NDArray[np.float64]] = {}
    for index, gap in enumerate(measured):
        joint = fit_jointly(gap.fit + gap.heldout, params)
        gaps.append(GapPatch(gap.start, gap.end, (Operation("rotation", joint.rotation),)))
        replacements |= folded_branch(model, gap.start - 1, joint.transform)
        audit[f"gaps.{index}.errors"] = joint.errors
    return PatchSet(tuple(gaps), audit, replacements)
