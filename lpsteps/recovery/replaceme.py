"""ReplaceMe: refit the last thing written to the stream in front of a gap, by least squares.

With m the MLP output of the layer in front of the gap as it is added to the stream, ``X_s`` the
stream in front of the gap and ``X_e`` the one behind it, ``T = argmin |y + m T - X_e|^2`` with
``y = X_s - m``: ``T = (m'm + alpha I)^-1 m'(X_e - y)`` (section 2). T is folded into the layer's
output projection, so that the repaired model has a stock architecture and no parameter more. It
cannot touch what passes by the MLP.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.errors import LpstepsError
from lpsteps.least_squares import (
    Regression,
    RidgeParams,
    RidgeSolver,
    added_regression,
    resolved_ridge,
)
from lpsteps.models.families import fixed_projections
from lpsteps.moments import BranchGapMoments, BranchMoments
from lpsteps.patches import PatchSet
from lpsteps.recovery.base import Need, RecoveryContext

TITLE: Final = "ReplaceMe (least squares)"
PAPER: Final = "https://arxiv.org/abs/2505.02819"
NEEDS: Final[frozenset[Need]] = frozenset({"branch-moments", "model"})

Prior = Literal["zero", "identity"]


class Params(RidgeParams):
    """Parameters of ReplaceMe; the defaults are the paper's."""

    ABSOLUTE: ClassVar[str] = "alpha"

    alpha: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Ridge on T, in units of m'm"
    )
    prior: Prior = Field(
        default="zero",
        description="Where the ridge draws T: zero, as in the paper, switches the MLP off; "
        "identity leaves it as it is",
    )


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why the projections of a family cannot be transformed, or None where they can."""
    return fixed_projections(family)


def branch_gaps(context: RecoveryContext) -> list[BranchGapMoments]:
    """Return the moments of the plan's gaps, which must tell the MLP outputs apart.

    Raises:
        LpstepsError: There are none, or they are of another kind, plan or model.
    """
    gaps = [gap for gap in context.needed_moments() if isinstance(gap, BranchGapMoments)]
    if len(gaps) < len(context.plan.gaps):
        raise LpstepsError("--moments: must be of kind branch for this recovery")
    return gaps


def branch_regression(moments: BranchMoments, prior: Prior) -> Regression:
    """Return the regression on m of what is missing when T is the prior."""
    gram = moments.branch_branch
    products = moments.branch_target - moments.branch_source
    square = added_regression(moments).square
    if prior == "zero":
        square += float(np.trace(gram) + 2.0 * np.trace(products))
        products = products + gram
    return Regression(gram, products, square)


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Refit one output projection per gap; ridges and errors before and after go to the audit.

    Raises:
        LpstepsError: The moments are missing, foreign or not finite.
    """
    from lpsteps.models.branch_fold import folded_branch

    measured = branch_gaps(context)
    model = context.needed_model().load()
    replacements: dict[str, npt.NDArray[np.float64]] = {}
    audit: dict[str, npt.NDArray[np.float64]] = {}
    for index, gap in enumerate(measured):
        both = gap.fit + gap.heldout
        total = branch_regression(both, params.prior)
        ridge, findings = resolved_ridge(
            params.alpha,
            params.relative_ridge,
            branch_regression(gap.fit, params.prior),
            branch_regression(gap.heldout, params.prior),
            total,
        )
        transform = RidgeSolver(total).solve(ridge)
        findings["errors"] = np.array(
            [both.error(np.eye(context.hidden_size)), total.error(transform)]
        )
        if params.prior == "identity":
            transform = transform + np.eye(context.hidden_size)
        replacements |= folded_branch(model, gap.start - 1, transform)
        audit |= {f"gaps.{index}.{name}": values for name, values in findings.items()}
    return PatchSet(replacements=replacements, audit=audit)
