"""One streaming pass over the calibration windows for the moments of all gaps of a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.calibration_text import heldout_windows
from lpsteps.errors import LpstepsError
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.excluded_tokens import check_exclude_first
from lpsteps.models.gap_pass import run_until
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.overflow import overflow_error
from lpsteps.moments import BranchMoments, GapMoments, Moments, gap_of
from lpsteps.progress import track

Weighting = Literal["uniform", "inverse_norm"]
Tokens = npt.NDArray[np.int64]


def gap_moments(
    model: PreTrainedModel,
    windows: Tokens,
    gaps: Sequence[tuple[int, int]],
    *,
    weighting: Weighting = "uniform",
    branch: bool = False,
    batch: int = 1,
    exclude_first: int = 0,
) -> list[GapMoments]:
    """Run the dense model over the windows and sum up the products of the rows around each gap.

    The rows are the model's activations. Products are taken and summed in float64, on a GPU as
    well: solutions are sought in directions that a few massive activations exceed by more than the
    digits of float32. A pass ends behind the last gap; the language-model head and the key-value
    cache are not computed.

    With ``inverse_norm`` a token counts ``1 / (|A_t|^2 + c)``, where c is the median of
    ``|A_t|^2`` over the first batch, so that tokens with massive activations count as much as
    others. Without it every token counts 1.

    Peak memory beside the model's own: on its device two ``[hidden_size, hidden_size]`` float64
    accumulators per gap (five with ``branch``), whatever the number of windows, and a few tensors
    of the size of one batch at one boundary; in the end twice the accumulators on the host. For
    4096 channels an accumulator is 134 MB.

    Args:
        model: A causal language model of a known family.
        windows: Token ids ``[windows, length]``, without padding. The last eighth, at least one,
            is held out.
        gaps: The removed layers ``(start, end)``, end exclusive, ascending and disjoint. A gap that
            reaches the number of layers ends in front of the final norm.
        weighting: How much a token counts.
        branch: Whether to tell the output of the MLP in front of each gap apart, as
            :class:`~lpsteps.moments.BranchMoments`.
        batch: Windows per forward pass.
        exclude_first: Tokens at the start of each window that do not count. They are still read by
            the model.

    Returns:
        The moments of each gap; :class:`~lpsteps.moments.BranchGapMoments` with ``branch``.

    Raises:
        LpstepsError: There is no window to fit to or no token that counts, a gap does not lie in
            the model, an activation is not finite, or a gap has no MLP in front of it whose output
            projection can repair it: it starts at layer 0, or a norm follows the projection.
    """
    layers = len(decoder_of(model).layers)
    free = 0
    for start, end in gaps:
        if not free <= start < end <= layers:
            raise LpstepsError(
                f"gaps: [{start}, {end}): gaps must be disjoint and ascend from layer {free} on, "
                f"the model has {layers} layers"
            )
        free = end
    sums = [_Sums(model, weighting, branch) for _ in gaps]
    by_start = {start: total for (start, _), total in zip(gaps, sums, strict=True)}
    by_end = {end: total for (_, end), total in zip(gaps, sums, strict=True)}
    opened: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def receive(boundary: int, rows: torch.Tensor, branch_rows: torch.Tensor | None) -> None:
        # A gap may start where another one ends.
        if boundary in by_end:
            by_end[boundary].add(*opened.pop(), rows)
        if boundary in by_start:
            opened.append((rows, branch_rows))

    read = partial(
        _read_rows,
        model,
        boundaries=by_start.keys() | by_end.keys(),
        branches=by_start.keys() if branch else (),
        exclude_first=exclude_first,
        receive=receive,
    )
    return _fit_and_heldout(windows, gaps, sums, read, batch=batch, exclude_first=exclude_first)


def sequential_gap_moments(
    dense: PreTrainedModel,
    repaired: PreTrainedModel,
    windows: Tokens,
    gap: tuple[int, int],
    *,
    survivors: Sequence[int],
    weighting: Weighting = "uniform",
    branch: bool = False,
    batch: int = 1,
    exclude_first: int = 0,
) -> GapMoments:
    """Sum up the products of the rows around a gap, with what enters it in a repaired model.

    In the dense model nobody has removed the layers of the gaps before. Here the rows in front of
    the gap are what the repaired model computes there, so that the repair of this gap can make up
    for what the repairs before it have left. The rows behind the gap are still the dense model's.

    Args:
        dense: The dense model.
        repaired: A copy without the layers of this gap and of all gaps in front of it, and with
            these repaired; nothing has been done to the layers behind the gap.
        windows: As for :func:`gap_moments`, like the other arguments.
        gap: The removed layers ``(start, end)``, end exclusive, numbered as in the dense model.
        survivors: The layers of the repaired model by their numbers in the dense one, ascending.
        weighting: How much a token counts, by its rows in the repaired model.
        branch: Whether to tell the output of the MLP in front of the gap apart, in the repaired
            model.
        batch: Windows per forward pass.
        exclude_first: Tokens at the start of each window that do not count.

    Returns:
        As :func:`gap_moments`, for the one gap.

    Raises:
        LpstepsError: As :func:`gap_moments`, or the repaired model has not all layers behind the
            gap, or one of its own.
    """
    start, end = gap
    layers = decoder_of(dense).layers
    if not 0 <= start < end <= len(layers):
        raise LpstepsError(f"gap: [{start}, {end}): the model has {len(layers)} layers")
    remaining = decoder_of(repaired).layers
    behind = [layer for layer in survivors if layer >= start]
    if len(survivors) != len(remaining) or behind != list(range(end, len(layers))):
        raise LpstepsError(
            f"gap: [{start}, {end}): the repaired model of {len(remaining)} layers, which are "
            f"{list(survivors)} of the dense one, must lack the layers of this gap and of those in "
            "front of it, and no other"
        )
    boundary = len(survivors) - len(behind)
    sums = _Sums(repaired, weighting, branch)
    opened: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def read(tokens: torch.Tensor) -> None:
        _read_rows(
            repaired,
            tokens,
            boundaries=[boundary],
            branches=[boundary] if branch else (),
            exclude_first=exclude_first,
            receive=lambda _, rows, branch_rows: opened.append((rows, branch_rows)),
        )
        _read_rows(
            dense,
            tokens,
            boundaries=[end],
            branches=(),
            exclude_first=exclude_first,
            receive=lambda _, rows, __: sums.add(*opened.pop(), rows),
        )

    (moments,) = _fit_and_heldout(
        windows, [gap], [sums], read, batch=batch, exclude_first=exclude_first
    )
    return moments


class _Sums:
    """Running sums of the rows of one gap, float64, on the device of the model."""

    def __init__(self, model: PreTrainedModel, weighting: Weighting, branch: bool) -> None:
        size = model.config.hidden_size
        zeros = partial(torch.zeros, dtype=torch.float64, device=model.device)
        self._dtype = model.dtype
        self._weighting = weighting
        self._floor: torch.Tensor | None = None
        # A'A, A'B, and with a branch m: m'm, m'A, m'B.
        self._products = zeros((5 if branch else 2, size, size))
        self._rows = zeros((2, size))
        self._scalars = zeros(2)

    def add(self, source: torch.Tensor, branch: torch.Tensor | None, target: torch.Tensor) -> None:
        """Add tokens: rows A, m and B, float64 ``[tokens, hidden_size]``."""
        weights = torch.ones_like(source[:, 0])
        if self._weighting == "inverse_norm":
            squares = source.square().sum(dim=1)
            if self._floor is None:
                self._floor = squares.median()
            weights = 1.0 / (squares + self._floor)
        roots = weights.sqrt().unsqueeze(1)
        self._rows[0] += weights @ source
        self._rows[1] += weights @ target
        source, target = source * roots, target * roots
        self._scalars[0] += weights.sum()
        self._scalars[1] += target.square().sum()
        self._products[0].addmm_(source.T, source)
        self._products[1].addmm_(source.T, target)
        if branch is not None:
            branch = branch * roots
            self._products[2].addmm_(branch.T, branch)
            self._products[3].addmm_(branch.T, source)
            self._products[4].addmm_(branch.T, target)

    def take(self) -> Moments:
        """Return the sums and start again from zero; the floor of the weights stays.

        Raises:
            LpstepsError: A sum is not finite.
        """
        products, rows, scalars = (
            values.to("cpu", copy=True).numpy()
            for values in (self._products, self._rows, self._scalars)
        )
        for values in (products, rows, scalars):
            if not np.isfinite(values).all():
                raise overflow_error(self._dtype)
        for sums in (self._products, self._rows, self._scalars):
            sums.zero_()
        weight, target_square = scalars.tolist()
        stream = (weight, *products[:2], target_square, *rows)
        return Moments(*stream) if len(products) == 2 else BranchMoments(*stream, *products[2:])


def _read_rows(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    *,
    boundaries: Collection[int],
    branches: Collection[int],
    exclude_first: int,
    receive: Callable[[int, torch.Tensor, torch.Tensor | None], None],
) -> None:
    """Run a batch up to the last of the boundaries and hand over the rows at each.

    Args:
        model: A causal language model of a known family.
        tokens: Token ids ``[batch, length]``.
        boundaries: Numbers of the layers whose inputs are wanted.
        branches: Those for which the output of the MLP in front is wanted, too.
        exclude_first: Tokens at the start of each window to leave out.
        receive: Gets the boundary, its rows and those of the MLP, float64 ``[tokens,
            hidden_size]``.

    Raises:
        LpstepsError: There is no MLP whose output projection writes what the boundary reads.
    """
    layers = decoder_of(model).layers
    outputs: dict[int, torch.Tensor] = {}

    def rows_of(hidden: torch.Tensor) -> torch.Tensor:
        counted = hidden.reshape(*tokens.shape, -1)[:, exclude_first:]
        return counted.to(device=model.device, dtype=torch.float64).flatten(0, 1)

    def observe(boundary: int, hidden: torch.Tensor) -> None:
        if boundary in boundaries:
            receive(boundary, rows_of(hidden), outputs.pop(boundary, None))

    def keep(boundary: int, _: nn.Module, __: object, output: torch.Tensor) -> None:
        outputs[boundary] = rows_of(output)

    handles = [
        _mlp_output(model, layers, boundary).register_forward_hook(partial(keep, boundary))
        for boundary in branches
    ]
    try:
        with watching_boundaries(model, observe):
            run_until(model, tokens, max(boundaries))
    finally:
        for handle in handles:
            handle.remove()


def _mlp_output(model: PreTrainedModel, layers: nn.ModuleList, boundary: int) -> nn.Linear:
    """Return the module that is the last to write to the stream in front of a boundary.

    Raises:
        LpstepsError: There is none, or a norm follows it.
    """
    if boundary == 0:
        raise LpstepsError(
            "plan: layer 0 is removed: no MLP is left in front of its gap whose output could be "
            "refitted; use a selection that keeps layer 0"
        )
    outputs = branch_outputs(layers[boundary - 1])
    if outputs.normalised:
        raise LpstepsError(
            f"model_type: {model.config.model_type}: a norm follows the output projection of its "
            "MLPs, so no matrix folds into them; use a recovery without branch moments"
        )
    return outputs.mlp


def _fit_and_heldout(
    windows: Tokens,
    gaps: Sequence[tuple[int, int]],
    sums: Sequence[_Sums],
    read: Callable[[torch.Tensor], None],
    *,
    batch: int,
    exclude_first: int,
) -> list[GapMoments]:
    """Read the windows to fit to, then those held out, and take the sums after each part.

    Raises:
        LpstepsError: There is no window to fit to, or no token that counts.
    """
    count, length = windows.shape
    heldout = heldout_windows(count)
    check_exclude_first(exclude_first, length)
    parts: list[list[Moments]] = []
    for name, part in (("moments", windows[:-heldout]), ("held-out", windows[-heldout:])):
        for first in track(range(0, len(part), batch), name):
            read(torch.from_numpy(part[first : first + batch]))
        parts.append([total.take() for total in sums])
    return [gap_of(*gap, *both) for gap, *both in zip(gaps, *parts, strict=True)]
