"""LinearPatch in any basis: rescale the channels of the residual stream in rotated coordinates.

LinearPatch (arXiv 2505.24680, section 3) rescales in a Hadamard basis, and its ablation in the
channels themselves (table 6). Here the basis is an axis, with five fixed bases and the principal
axes of the stream in front of the gap, and so is the source of the statistics:

``original``
    Both sides of a gap are read from the dense model, as LinearPatch does.
``sequential``
    The front of a gap is read from the model with all earlier gaps cut and patched, and within a
    gap behind the operations of its earlier layers, so that a scale also makes up for what the
    earlier ones miss. The back of the gap is that of the dense model.

With one gap and one operation per gap the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.patch_matrix import patch_matrix
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.progress import track
from lpsteps.recovery.base import Need, RatioParams, RecoveryContext, magnitude_ratios

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from lpsteps.plan import Plan

TITLE: Final = "Rotated channel scaling"
PAPER: Final = "https://arxiv.org/abs/2505.24680"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True

# Tokens per forward pass: whole windows, at least one.
_TOKENS_PER_PASS = 2048

Matrix = npt.NDArray[np.float64]
Probe = tuple[int, Matrix]


class Params(RatioParams):
    """Parameters of the rescaling."""

    basis: Literal[
        "identity", "hadamard", "randomised_hadamard", "random_orthogonal", "dct", "pca"
    ] = Field(
        default="hadamard",
        description="Basis in which channels are rescaled; pca: eigenvectors of X^T X, with X the "
        "calibration rows that enter the gap",
    )
    statistics: Literal["original", "sequential"] = Field(
        default="original",
        description="Source of a gap: the dense model, or the model that is patched so far",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the random bases")


def mean_magnitudes(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], probes: Sequence[Probe]
) -> npt.NDArray[np.float64]:
    """Return the mean over tokens of ``|x @ matrix|`` for each window.

    Rows are rotated in float32 and averaged in float64.

    Args:
        model: A model, pruned and patched or not.
        windows: Token ids ``[windows, length]``.
        probes: Pairs of a boundary, where rows x are read (behind its patch), and a matrix,
            ``[hidden_size, hidden_size]``.

    Returns:
        Float64 ``[windows, probes, hidden_size]``.

    Raises:
        LpstepsError: An activation is not finite.
    """
    import torch

    from lpsteps.models.boundaries import watching_boundaries
    from lpsteps.models.gap_pass import run_until
    from lpsteps.models.overflow import overflow_error

    last = max(wanted for wanted, _ in probes)
    # Probes share their matrices, which are large.
    on_device = {
        id(matrix): torch.tensor(matrix, dtype=torch.float32, device=model.device)
        for _, matrix in probes
    }
    means = np.empty((len(windows), len(probes), len(probes[0][1])))
    for batch in track(_batches(windows), "scales"):

        def observe(boundary: int, hidden: torch.Tensor, batch: slice = batch) -> None:
            rows = hidden.to(device=model.device, dtype=torch.float32)
            for index, (wanted, matrix) in enumerate(probes):
                if wanted == boundary:
                    magnitudes = (rows @ on_device[id(matrix)]).abs()
                    means[batch, index] = magnitudes.mean(dim=1, dtype=torch.float64).cpu().numpy()

        with watching_boundaries(model, observe):
            run_until(model, torch.tensor(windows[batch]), last)
    if not np.isfinite(means).all():
        raise overflow_error(model.dtype)
    return means


def principal_axes(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], boundaries: Sequence[int]
) -> list[Matrix]:
    """Return the eigenvectors of ``X^T X``, in columns, for the rows X at each boundary.

    Args:
        model: A model, pruned and patched or not.
        windows: Token ids ``[windows, length]``.
        boundaries: Where rows are read, behind the boundary's patch.

    Raises:
        LpstepsError: An activation is not finite.
    """
    import torch

    from lpsteps.models.boundaries import watching_boundaries
    from lpsteps.models.gap_pass import run_until
    from lpsteps.models.overflow import overflow_error

    moments: dict[int, torch.Tensor] = {}

    def observe(boundary: int, hidden: torch.Tensor) -> None:
        if boundary in boundaries:
            rows = hidden.to(device=model.device, dtype=torch.float64).flatten(0, 1)
            moments[boundary] = moments.get(boundary, 0.0) + rows.T @ rows

    with watching_boundaries(model, observe):
        for batch in track(_batches(windows), "principal axes"):
            run_until(model, torch.tensor(windows[batch]), max(boundaries))
    if not all(moment.isfinite().all() for moment in moments.values()):
        raise overflow_error(model.dtype)
    return [np.linalg.eigh(moments[boundary].cpu().numpy())[1] for boundary in boundaries]


def rescaling_patches(
    model: PreTrainedModel, plan: Plan, windows: npt.NDArray[np.int64], params: Params
) -> PatchSet:
    """Build one operation per gap, or a chain of one per removed layer.

    Args:
        model: The dense model; it does not change. With ``sequential`` statistics and more than one
            gap a second model is held in memory.
        plan: The layers to remove.
        windows: Token ids ``[windows, length]``.
        params: Basis, grouping, reduction and source of the statistics.

    Returns:
        Scales in the identity basis, matrices in any other; with the ratios as audit tensors
        ``gaps.{k}.operations.{j}.d``.

    Raises:
        LpstepsError: An activation is not finite.
    """
    measure = _original_ratios if params.statistics == "original" else _sequential_ratios
    gaps = []
    audit = {}
    for index, gap in enumerate(measure(model, plan, windows, params)):
        gaps.append(gap.patch(params))
        for position, ratios in enumerate(gap.ratios):
            audit[f"gaps.{index}.operations.{position}.d"] = ratios
    return PatchSet(tuple(gaps), audit)


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Load the model, measure the ratios and build the patches."""
    source = context.needed_model()
    # The second copy is the model that is repaired up to an earlier gap.
    copies = 2 if params.statistics == "sequential" and len(context.plan.gaps) > 1 else 1
    return rescaling_patches(source.load(copies), context.plan, source.windows, params)


@dataclass(frozen=True, eq=False)
class _GapRatios:
    """A gap ``[start, end)``, its basis and the ratios of its operations."""

    start: int
    end: int
    basis: Matrix
    ratios: list[npt.NDArray[np.float64]]

    def patch(self, params: Params) -> GapPatch:
        operations = (
            Operation("scale", ratios)
            if params.basis == "identity"
            else Operation("matrix", patch_matrix(self.basis, ratios))
            for ratios in self.ratios
        )
        return GapPatch(self.start, self.end, tuple(operations))


def _original_ratios(
    model: PreTrainedModel, plan: Plan, windows: npt.NDArray[np.int64], params: Params
) -> list[_GapRatios]:
    """Measure all gaps in one pass over the text, with one more for principal axes."""
    bases = _bases(model, windows, [start for start, _ in plan.gaps], params)
    probes = [
        (boundary, basis)
        for gap, basis in zip(plan.gaps, bases, strict=True)
        for boundary in _boundaries(*gap, params)
    ]
    means = iter(np.moveaxis(mean_magnitudes(model, windows, probes), 1, 0))
    gaps = []
    for (start, end), basis in zip(plan.gaps, bases, strict=True):
        read = list(islice(means, len(_boundaries(start, end, params))))
        ratios = [magnitude_ratios(*sides, params) for sides in pairwise(read)]
        gaps.append(_GapRatios(start, end, basis, ratios))
    return gaps


def _sequential_ratios(
    model: PreTrainedModel, plan: Plan, windows: npt.NDArray[np.int64], params: Params
) -> list[_GapRatios]:
    """Measure the gaps in order, each behind the patches of the earlier ones."""
    import copy

    from lpsteps.models.surgery import apply_plan
    from lpsteps.plan import Plan

    gaps: list[_GapRatios] = []
    for start, end in plan.gaps:
        earlier = tuple(layer for layer in plan.layers if layer < start)
        # This lets go of the last gap's copy, too, before the next is made.
        partial = model
        if earlier:
            partial = copy.deepcopy(model)
            patches = PatchSet(tuple(gap.patch(params) for gap in gaps))
            apply_plan(partial, Plan.removing(plan.n_layers, earlier), patches)
        entrance = start - len(earlier)
        (basis,) = _bases(partial, windows, [entrance], params)
        after = _boundaries(start, end, params)[1:]
        targets = mean_magnitudes(model, windows, [(boundary, basis) for boundary in after])
        ratios: list[npt.NDArray[np.float64]] = []
        # The operations so far, as one matrix on the stream that enters the gap.
        chain = np.eye(len(basis))
        for position in range(len(after)):
            sources = mean_magnitudes(partial, windows, [(entrance, chain @ basis)])
            ratios.append(magnitude_ratios(sources[:, 0], targets[:, position], params))
            chain = chain @ patch_matrix(basis, ratios[-1])
        gaps.append(_GapRatios(start, end, basis, ratios))
    return gaps


def _boundaries(start: int, end: int, params: Params) -> Sequence[int]:
    """Return the boundaries between which a gap's operations lead."""
    return (start, end) if params.grouping == "per_gap" else range(start, end + 1)


def _bases(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    boundaries: Sequence[int],
    params: Params,
) -> list[Matrix]:
    """Return the basis of each boundary, basis vectors in columns."""
    from lpsteps.hadamard import basis_matrix

    if params.basis == "pca":
        return principal_axes(model, windows, boundaries)
    hidden_size = model.config.get_text_config().hidden_size
    return [basis_matrix(hidden_size, params.basis, params.seed).matrix] * len(boundaries)


def _batches(windows: npt.NDArray[np.int64]) -> list[slice]:
    size = max(1, _TOKENS_PER_PASS // windows.shape[1])
    return [slice(start, start + size) for start in range(0, len(windows), size)]
