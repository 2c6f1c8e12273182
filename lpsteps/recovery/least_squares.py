"""Ghosted Layers: one matrix per gap, fitted by least squares.

Over the tokens of the calibration text, A in front of the gap and B behind it in the dense model,
``W = argmin |A W - B|^2 = I + M`` with ``M = (A'A + eps I)^-1 A'(B - A)`` in float64 (section 3).
The ridge acts on M, so it draws the repair to the identity, the model as pruned. W is inserted
where LinearPatch has its matrix, at the same cost of ``hidden_size ** 2`` parameters per gap.

Beyond the paper: a few tokens with massive activations carry nearly all of A'A, so tokens can be
weighted by their inverse norm; the ridge can be chosen on held-out text; an intercept can be added;
M can be held to a low rank, where it costs ``2 * rank * hidden_size``; and with several gaps each
can be fitted to what the repaired model in front of it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.errors import LpstepsError
from lpsteps.least_squares import (
    Centre,
    RidgeParams,
    RidgeSolver,
    added_regression,
    resolved_ridge,
)
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan
from lpsteps.recovery.base import Need, RecoveryContext, WeightingParams, stream_need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from lpsteps.moments import GapMoments

TITLE: Final = "Ghosted Layers (least squares)"
PAPER: Final = "https://arxiv.org/abs/2605.15491"


class Params(RidgeParams, WeightingParams):
    """Parameters of the least-squares matrix; the defaults are the paper's."""

    ABSOLUTE: ClassVar[str] = "epsilon"

    epsilon: float = Field(
        default=1e-6, ge=0, allow_inf_nan=False, description="Ridge on M, in units of A'A"
    )
    intercept: bool = Field(
        default=False, description="Whether a constant is fitted too, for hidden_size parameters"
    )
    rank: int | None = Field(
        default=None, ge=1, description="Largest rank of M; null: any, in one full matrix"
    )
    statistics: Literal["original", "sequential"] = Field(
        default="original",
        description="Where A is read: in the dense model, or in the model pruned and repaired up "
        "to the gap",
    )


def needs(params: Params) -> frozenset[Need]:
    """Return the moments of the weighting, or the model when moments depend on the repair."""
    if params.statistics == "sequential":
        return frozenset({"model"})
    return stream_need(params)


def fit_gap(
    moments: GapMoments, params: Params
) -> tuple[tuple[Operation, ...], dict[str, npt.NDArray[np.float64]]]:
    """Fit the repair of one gap.

    Args:
        moments: Products of the rows in front of the gap and behind it.
        params: The kind of repair.

    Returns:
        The operations, and audit tensors: the ridge and how it was found, and ``errors``, the sums
        of squares without the repair and with it.

    Raises:
        LpstepsError: The rank exceeds the hidden size, or the moments or the solution overflow.
    """
    hidden_size = len(moments.fit.source_source)
    if params.rank is not None and params.rank > hidden_size:
        raise LpstepsError(f"rank: {params.rank}: must not exceed the hidden size, {hidden_size}")
    both = moments.fit + moments.heldout
    fit_centre = Centre.of(moments.fit) if params.intercept else None
    centre = Centre.of(both) if params.intercept else None
    total = added_regression(both, centre)
    ridge, audit = resolved_ridge(
        params.epsilon,
        params.relative_ridge,
        added_regression(moments.fit, fit_centre),
        added_regression(moments.heldout, fit_centre),
        total,
        params.rank,
    )

    solver = RidgeSolver(total)
    if params.rank is None:
        added = solver.solve(ridge)
        operations = [Operation("matrix", np.eye(hidden_size) + added)]
    else:
        left, right = solver.solve_low_rank(ridge, params.rank)
        added = left @ right.T
        operations = [Operation("low_rank", np.stack([left, right]))]
    if centre is not None:
        operations.append(Operation("shift", centre.shift(added)))
    unrepaired = added_regression(both).error(np.zeros_like(added))
    audit["errors"] = np.array([unrepaired, total.error(added)])
    return tuple(operations), audit


def _sequential_moments(
    context: RecoveryContext,
    params: Params,
    dense: PreTrainedModel,
    gap: tuple[int, int],
    repaired: Sequence[GapPatch],
) -> GapMoments:
    """Return the moments of a gap, its source read in the model repaired with ``repaired``."""
    import copy

    from lpsteps.models.gap_moments import sequential_gap_moments
    from lpsteps.models.surgery import apply_plan, surviving_layers

    removed = tuple(layer for layer in context.plan.layers if layer < gap[1])
    plan = Plan.removing(context.plan.n_layers, removed)
    patches = PatchSet(tuple(repaired))
    pruned = copy.deepcopy(dense)
    apply_plan(pruned, plan, patches)
    source = context.needed_model()
    return sequential_gap_moments(
        dense,
        pruned,
        source.text,
        gap,
        survivors=surviving_layers(plan, patches),
        weighting=params.weighting,
        exclude_first=source.exclude_first,
    )


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Fit the gaps one after the other, ascending.

    Raises:
        LpstepsError: As :func:`fit_gap` does, or an input is missing or foreign.
    """
    # The second copy is the repaired model, whose statistics the next gap is fitted to.
    sequential = params.statistics == "sequential"
    dense = context.needed_model().load(copies=2) if sequential else None
    gaps: list[GapPatch] = []
    audit: dict[str, npt.NDArray[np.float64]] = {}
    for index, (start, end) in enumerate(context.plan.gaps):
        if dense is None:
            moments = context.needed_moments()[index]
        else:
            moments = _sequential_moments(context, params, dense, (start, end), gaps)
        operations, findings = fit_gap(moments, params)
        gaps.append(GapPatch(start, end, operations))
        audit |= {f"gaps.{index}.{name}": values for name, values in findings.items()}
    return PatchSet(tuple(gaps), audit)
