"""What a recovery method is given, and the channel ratios that several methods share.

A method is one module of this package. It defines:

``TITLE``, ``PAPER``
    Name and source (a URL, empty for a baseline without a paper).
``NEEDS``
    What it reads: a set of :data:`Need`. When that depends on the parameters, the module defines
    a function ``needs(params)`` in its place. It can ask for one kind of moments at most.
``Params``
    A frozen pydantic model of its parameters, with a description of every field.
``build(context, params)``
    The work: a :class:`~lpsteps.patches.PatchSet` with at most one patch per gap of the plan, new
    values for parameters of the layers that stay, and removed layers that stay after all.
``working_bytes(hidden_size, intermediate_size)``
    Optional: the memory that the work takes beside the model's own and that of what it reads, for
    jobs on a cluster; none where a method does not say.
``unsuited(params, n, family)``
    Optional: why the method, with these parameters, cannot repair a plan of n removed layers in a
    model of a family (its ``model_type``, or None where the config does not state it), in a few
    words, or None where it can.
``COUNTS_EVERY_TOKEN``
    True in a method that reads :attr:`lpsteps.inputs.ModelInput.windows`: the config is refused
    where it would meet a calibration that excludes tokens.

Where ``Params`` has a property ``wanted_text``, a
:class:`~lpsteps.calibration_text.WantedText`, the config is refused where the calibration has less.

The workflow imports these modules to check a configuration, so their import must be cheap:
inputs come in through the context, and heavy libraries are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan

if TYPE_CHECKING:
    from lpsteps.inputs import ModelInput
    from lpsteps.moments import GapMoments, MomentsKind
    from lpsteps.statistics import Statistics

Need = Literal["statistics", "model", "stream-moments", "weighted-stream-moments", "branch-moments"]

_MOMENTS_KINDS: dict[Need, MomentsKind] = {
    "stream-moments": "stream",
    "weighted-stream-moments": "weighted-stream",
    "branch-moments": "branch",
}

Grouping = Literal["per_gap", "per_layer"]
Reduction = Literal["mean_of_ratios", "ratio_of_means"]


@dataclass(frozen=True, eq=False)
class RecoveryContext:
    """The inputs of a recovery.

    Attributes:
        plan: The layers that were removed.
        hidden_size: Channels of the residual stream.
        statistics: Calibration statistics of the dense model, for methods that need them.
        moments: Moments of the plan's gaps in the dense model, for methods that need some kind.
        model: Model and calibration text, for methods that need ``"model"``.
        seed: Seed of the run, for methods that draw at random.
        bos_in_windows: Whether each window of the calibration text begins with a BOS token.
    """

    plan: Plan
    hidden_size: int
    statistics: Statistics | None = None
    moments: Sequence[GapMoments] | None = None
    model: ModelInput | None = None
    seed: int = 0
    bos_in_windows: bool = False

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
                f"{self.plan.n_layers} of {self.hidden_size}; calibrate on that model"
            )
        return self.statistics

    def needed_moments(self) -> Sequence[GapMoments]:
        """Return the moments, one for each gap of the plan, in order.

        Raises:
            LpstepsError: There are none, or they were measured for another plan or model.
        """
        if self.moments is None:
            raise LpstepsError("--moments: required by this recovery")
        gaps = tuple((gap.start, gap.end) for gap in self.moments)
        if gaps != self.plan.gaps:
            raise LpstepsError(
                f"--moments: gaps {[list(gap) for gap in gaps]}: the plan has "
                f"{[list(gap) for gap in self.plan.gaps]}; measure them again"
            )
        for gap in self.moments:
            channels = len(gap.fit.source_sum)
            if channels != self.hidden_size:
                raise LpstepsError(
                    f"--moments: {channels} channels: the model has {self.hidden_size}; "
                    "measure them on that model"
                )
        return self.moments

    def needed_model(self) -> ModelInput:
        """Return the model to run.

        Raises:
            LpstepsError: There is none.
        """
        if self.model is None:
            raise LpstepsError("--windows and --compute: required by this recovery")
        return self.model


def moments_kind(needs: frozenset[Need]) -> MomentsKind | None:
    """Return the kind of moments that a recovery reads, or None when it reads none."""
    return next((kind for need, kind in _MOMENTS_KINDS.items() if need in needs), None)


class WeightingParams(BaseModel):
    """Parameters of the methods that fit to the stream, in which tokens can be weighted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weighting: Literal["uniform", "inverse_norm"] = Field(
        default="uniform",
        description="Weight of a token: the same for all, or less the larger its activations are",
    )


def stream_need(params: WeightingParams) -> frozenset[Need]:
    """Return the moments that belong to a weighting."""
    return frozenset(
        {"stream-moments" if params.weighting == "uniform" else "weighted-stream-moments"}
    )


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
    over the samples, in which every sample counts the same; the paper's wording also allows the
    ratio of the averages. A channel that is silent in front keeps the ratio 1.

    Args:
        statistics: Mean absolute activations of the dense model.
        start: First layer.
        end: Layer after the last one; the number of layers stands for the final norm.
        basis: Basis in which channels are counted, as the statistics name it.
        params: Reduction, and the floor up to which a channel is silent.

    Returns:
        Positive ratios, float64 ``[hidden_size]``.
    """
    source = statistics.mean_absolute(start, basis)
    return magnitude_ratios(source, statistics.mean_absolute(end, basis), params)


def magnitude_ratios(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64], params: RatioParams
) -> npt.NDArray[np.float64]:
    """Return by how much channels grow between two places, as :func:`channel_ratios` says.

    Args:
        source: Mean absolute activations in front, ``[samples, hidden_size]``.
        target: Mean absolute activations behind, ``[samples, hidden_size]``.
        params: Reduction, and the floor under both.

    Returns:
        Positive ratios, float64 ``[hidden_size]``.

    Raises:
        LpstepsError: A stream, or the mean of them, is zero in front, in all channels.
    """
    if params.reduction == "ratio_of_means":
        source = source.mean(axis=0, keepdims=True)
        target = target.mean(axis=0, keepdims=True)
    silent = np.flatnonzero(~source.any(axis=1))
    if silent.size:
        raise LpstepsError(
            f"calibration: sample {silent[0]}: the stream is zero in all channels in front of the "
            "layers whose scales are asked for; look at the model's weights"
        )
    floor = params.epsilon * source.mean(axis=1, keepdims=True)
    # A channel that is silent in front is so behind whatever the scale; a huge one would only ruin
    # other text, and the mean over the channels that Prune&Comp takes.
    heard = source > floor
    ratios = np.divide(np.maximum(target, floor), source, out=np.ones_like(source), where=heard)
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
