"""Least squares for the cut and for what surrounds it: a patch, and refitted output projections.

A matrix at the cut can restore what the removed layers added only as far as it is linear in the
stream. The surviving layers have nonlinear features of their own, though, and what they write to
the stream is linear in them: attention and MLP end in an output projection. So all of it is one
chain of ridge regressions, solved in the order in which the model runs, without a gradient step:

- In front of a gap, the patch W and what the MLP adds beyond its own output, D, are fitted
  together: ``min |X W + h D - X_e|^2``, with X the stream that enters the gap and h what the output
  projection reads. The projection then adds ``D W^-1``.
- Behind a gap, the output projections of attention and MLP of every layer, up to the one in front
  of the next gap, are moved one after the other towards the stream of the dense model:
  ``min |r + h D - X_{l+1}|^2 + ridge |D|^2``, with r the repaired model's stream behind the layer
  and h what the projection reads in that model.

A change costs no parameter and no time: it is added to the weight. What is left to store is the
patch, as large as LinearPatch's. The matrix alone is Ghosted Layers (arXiv:2605.15491), the
projection in front alone is the idea of ReplaceMe (arXiv:2505.02819).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.models.families import fixed_projections
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import Need, RecoveryContext

TITLE: Final = "Branch refit"
PAPER: Final = ""
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(BaseModel):
    """Parameters of the branch refit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ridge: float = Field(
        default=0.5,
        gt=0,
        allow_inf_nan=False,
        description="Ridge on the change of each projection, in units of the mean eigenvalue of "
        "what it reads",
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
        default=None,
        ge=0,
        description="Layers to refit behind each gap; null for all up to the one in front of the "
        "next gap",
    )
    batch: int = Field(default=4, ge=1, description="Windows per forward pass")


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why the projections of a family cannot be refitted, or None where they can."""
    return fixed_projections(family)


def working_bytes(hidden_size: int, intermediate_size: int) -> int:
    """Return the memory of the largest regression, that of patch and MLP in front of a gap.

    Its Gram matrix, which is factored in place, and five matrices of products and solutions, all
    float64, as :func:`lpsteps.models.refit.refit` says.
    """
    inputs = hidden_size + intermediate_size
    return 8 * inputs * (inputs + 5 * hidden_size)


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Refit the model around its gaps.

    Returns:
        One matrix per gap and the refitted projections. Audit: relative errors of the stream,
        float64 ``[before or after, ordinary or massive tokens]``, behind each gap and behind each
        layer whose two projections were refitted.

    Raises:
        LpstepsError: The model is missing, its family normalises what its branches write, an
            activation is not finite, or a ridge is too small for the text.
    """
    from lpsteps.models.refit import RefitSettings, refit

    source = context.needed_model()
    settings = RefitSettings(**params.model_dump())
    done = refit(source.load(), source.windows, context.plan, settings)
    gaps = tuple(
        GapPatch(start, end, (Operation("matrix", matrix),))
        for (start, end), matrix in zip(context.plan.gaps, done.patches, strict=True)
    )
    audit: dict[str, npt.NDArray[np.float64]] = {
        f"{place}.relative_errors": np.array(errors) for place, errors in done.errors.items()
    }
    return PatchSet(gaps, audit=audit, replacements=done.weights)
