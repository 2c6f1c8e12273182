"""What a recovery method is given, and the channel ratios that several methods share.

A method is one module of this package. It defines:

``TITLE``, ``PAPER``
    Name and source (a URL, empty for a baseline without a paper).
``NEEDS``
    What it reads: a subset of ``{"statistics"}``.
``Params``
    A frozen pydantic model of its parameters, with a description of every field.
``build(context, params)``
    The work: a :class:`~lpsteps.patches.PatchSet` with one patch per gap of the plan.

The workflow imports these modules to check a configuration, so their import must be cheap:
statistics come in through the context, and heavy libraries are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan

if TYPE_CHECKING:
    from lpsteps.statistics import Statistics

Need = Literal["statistics"]
Grouping = Literal["per_gap", "per_layer"]
Reduction = Literal["mean_of_ratios", "ratio_of_means"]


@dataclass(frozen=True, eq=False)
class RecoveryContext:
    """The inputs of a recovery.

    Attributes:
        plan: The layers that were removed.
        hidden_size: Channels of the residual stream.
        statistics: Calibration statistics of the dense model, for methods that need them.
    """

    plan: Plan
    hidden_size: int
    statistics: Statistics | None = None

    def needed_statistics(self) -> Statistics:
        """Return the statistics.

        Raises:
            LpstepsError: There are none, or they do not belong to the model that was pruned.
        """
        if self.statistics is None:
            raise LpstepsError("--stats: required by this recovery")
        found = (self.statistics.n_layers, self.statistics.hidden_size)
        if found != (self.plan.n_layers, self.hidden_size):
            raise LpstepsError(
                f"--stats: {found[0]} layers of {found[1]} channels: the model has "
                f"{self.plan.n_layers} of {self.hidden_size}"
            )
        return self.statistics


class RatioParams(BaseModel):
    """Parameters of the methods that rescale channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grouping: Grouping = Field(
        default="per_gap",
        description="One operation for a whole gap, or one for each removed layer, in a chain",
    )
    reduction: Reduction = Field(
        default="mean_of_ratios",
        description="Mean over samples of each sample's ratio, or ratio of the means over samples",
    )
    epsilon: float = Field(
        default=1e-8,
        gt=0,
        lt=1,
        description="Smallest activation that counts, relative to the mean over the channels",
    )


def channel_ratios(
    statistics: Statistics, start: int, end: int, basis: str, params: RatioParams
) -> npt.NDArray[np.float64]:
    """Return by how much the layers ``[start, end)`` scale each channel of the residual stream.

    For each sample, the mean absolute activation of a channel in front of layer ``end`` over that
    in front of layer ``start`` (LinearPatch, section 3). The released code averages these ratios
    over the samples; the paper's wording also allows the ratio of the averages, in which every
    sample counts the same. A channel that is silent on both sides keeps the ratio 1.

    Args:
        statistics: Mean absolute activations of the dense model.
        start: First layer.
        end: Layer after the last one; the number of layers stands for the final norm.
        basis: Basis in which channels are counted, as the statistics name it.
        params: Reduction, and the floor under both activations.

    Returns:
        Positive ratios, float64 ``[hidden_size]``.
    """
    source = statistics.mean_absolute(start, basis)
    target = statistics.mean_absolute(end, basis)
    if params.reduction == "ratio_of_means":
        source = source.mean(axis=0, keepdims=True)
        target = target.mean(axis=0, keepdims=True)
    floor = params.epsilon * source.mean(axis=1, keepdims=True)
    ratios = np.maximum(target, floor) / np.maximum(source, floor)
    reduced: npt.NDArray[np.float64] = ratios.mean(axis=0)
    return reduced


def patches_from_ratios(
    context: RecoveryContext,
    params: RatioParams,
    basis: str,
    operation: Callable[[npt.NDArray[np.float64]], Operation],
) -> PatchSet:
    """Build a patch for every gap from channel ratios.

    With ``per_layer`` grouping every removed layer gets its own operation, from the input of the
    layer to its output in the dense model (the paper's tables for non-contiguous pruning), and a
    gap chains the operations of its layers.

    Args:
        context: Plan and statistics.
        params: Grouping, and how ratios are taken.
        basis: Basis of the ratios, as the statistics name it.
        operation: Turns ratios ``[hidden_size]`` into an operation on the stream.

    Returns:
        The patches, with the ratios as audit tensors ``gaps.{k}.operations.{j}.d``.
    """
    statistics = context.needed_statistics()
    gaps: list[GapPatch] = []
    audit: dict[str, npt.NDArray[np.float64]] = {}
    for gap_index, (start, end) in enumerate(context.plan.gaps):
        spans = [(start, end)]
        if params.grouping == "per_layer":
            spans = [(layer, layer + 1) for layer in range(start, end)]
        operations: list[Operation] = []
        for operation_index, (first, after) in enumerate(spans):
            ratios = channel_ratios(statistics, first, after, basis, params)
            audit[f"gaps.{gap_index}.operations.{operation_index}.d"] = ratios
            operations.append(operation(ratios))
        gaps.append(GapPatch(start, end, tuple(operations)))
    return PatchSet(tuple(gaps), audit)
