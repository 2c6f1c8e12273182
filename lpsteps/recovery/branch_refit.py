"""Least squares for the cut and for what surrounds it: a patch, and refitted output projections.

One matrix at the cut cannot make up for what n layers computed from each token alone. The surviving
layers have nonlinear features of their own, though, and what they write to the residual stream is
linear in them: attention and MLP end in an output projection. So all of it is one chain of ridge
regressions, solved in the order in which the model runs, with no gradient step:

- In front of a gap, the patch W and a change D of the MLP's output projection are fitted together:
  ``min |X W + h D W - X_e|^2``, with X the stream that enters the gap and h what the projection
  reads.
- Behind a gap, the output projections of attention and MLP of every layer are moved, one after the
  other, towards the stream of the dense model: ``min |r + h D - X_{l+1}|^2 + ridge |D|^2``, with r
  the repaired model's stream behind the layer and h what the projection reads in that model.

A change costs no parameter and no time: it is added to the weight. What is left to store is the
patch, as large as LinearPatch's. The idea combines Ghosted Layers (the matrix), ReplaceMe (the
projection in front) and the layer-by-layer error correction of post-training compression; the ridge
draws each projection to the weight that the model was trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import Need, RecoveryContext

if TYPE_CHECKING:
    from lpsteps.models.refit import Refit

TITLE: Final = "Branch refit"
PAPER: Final = ""
NEEDS: Final[frozenset[Need]] = frozenset({"model"})


class Params(BaseModel):
    """Parameters of the branch refit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ridge: float = Field(
        default=0.5,
        gt=0,
        allow_inf_nan=False,
        description="Pull of each projection towards its own weight, in units of the mean "
        "eigenvalue of what it reads",
    )
    patch_ridge: float = Field(
        default=1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Pull of the patch towards the identity, in units of the mean eigenvalue of "
        "the stream",
    )
    in_front: bool = Field(
        default=True, description="Fit the MLP in front of each gap together with the patch"
    )
    behind: int | None = Field(
        default=None, ge=0, description="Layers to refit behind each gap; null for all"
    )
    batch: int = Field(default=4, ge=1, description="Windows per forward pass")


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Refit the model around its gaps.

    Returns:
        One matrix per gap and the refitted projections. Audit: for each gap and each refitted layer
        the error of the stream, relative to the dense stream and without massive tokens, before and
        after.

    Raises:
        LpstepsError: The model is missing, its family normalises what its branches write, or an
            activation is not finite.
    """
    from lpsteps.models.refit import refit

    source = context.needed_model()
    done: Refit = refit(
        source.load(),
        source.windows,
        context.plan,
        ridge=params.ridge,
        patch_ridge=params.patch_ridge,
        in_front=params.in_front,
        behind=params.behind,
        batch=params.batch,
    )
    gaps = tuple(
        GapPatch(start, end, (Operation("matrix", matrix),))
        for (start, end), matrix in zip(context.plan.gaps, done.patches, strict=True)
    )
    audit: dict[str, npt.NDArray[np.float64]] = {
        f"{place}.relative_errors": np.array(errors) for place, errors in done.errors.items()
    }
    return PatchSet(gaps, audit=audit, replacements=done.weights)
