"""Repairs of many possible cuts, fitted in one pass over the text, and what each of them leaves.

A cut takes out the layers ``[start, end)``; its bridge is the matrix that stands in for them, as
the recovery ``least_squares`` would fit it. The layers in front of a cut do not notice it, so they
are run once for all cuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from lpsteps.least_squares import Regression, RidgeSolver
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.layerwise import LayerwiseModel
from lpsteps.models.patch import Patch
from lpsteps.patches import GapPatch, Operation
from lpsteps.progress import track


@dataclass(frozen=True, eq=False)
class Bridge:
    """What stands in for the layers `[start, end)`.

    Attributes:
        start: First layer of the cut.
        end: Layer after the last one; the number of layers stands for the final norm.
        patch: Maps what layer `start` would read to what layer `end` reads.
    """

    start: int
    end: int
    patch: Patch


def run_bridged(
    model: LayerwiseModel,
    hidden: torch.Tensor,
    start: int,
    end: int,
    bridges: Mapping[int, Bridge],
) -> torch.Tensor:
    """Run a stretch of a model some of whose cuts are bridged.

    Args:
        model: The dense model.
        hidden: What layer `start` or its bridge reads, `[windows, length, hidden_size]`.
        start: First layer to run; not inside a cut.
        end: Layer to stop in front of; not inside a cut.
        bridges: Bridges by the first layer of their cuts.

    Returns:
        What layer `end`, its bridge or the final norm reads, of the same shape.
    """
    layer = start
    while layer < end:
        if layer in bridges:
            hidden = bridges[layer].patch(hidden)
            layer = bridges[layer].end
        else:
            hidden = model.run(layer, hidden)
            layer += 1
    return hidden


def fitted_bridges(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    cuts: Sequence[tuple[int, int]],
    relative_ridge: float,
    bridges: Mapping[int, Bridge],
) -> Iterator[Bridge]:
    """Fit one matrix to each of several cuts, none of which knows of the others.

    The rows A are what layer `start` reads in the model with the given bridges, B what layer `end`
    reads in the dense model. The bridge is `I + M`, where M minimises
    `|A + A M - B|^2 + ridge |M|^2`, in float64, with `ridge = relative_ridge * tr(A'A) / C`. All
    tokens count the same.

    One pass over the windows, one at a time, serves all cuts: of the dense model, and of the
    bridged one behind its first bridge. Peak memory beside the model's own, C being the hidden
    size: on its device a `[C, C]` float64 matrix A'A per start and one A'(B - A) per cut, whatever
    the number of windows, and one window's stream in front of every layer. For 4096 channels a
    matrix takes 134 MB.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids `[windows, length]`.
        cuts: Layers `(start, end)` to take out, end exclusive, ascending; no start or end may lie
            inside a bridged cut.
        relative_ridge: Strength of the pull towards no repair.
        bridges: Bridges of the cuts that are already there, by their first layers.

    Yields:
        The bridges of the cuts, in their order. Matrices are solved for one start at a time.

    Raises:
        LpstepsError: The family is unknown, activations are not finite or a solution overflows.
    """
    ends: dict[int, list[int]] = {}
    for start, end in cuts:
        ends.setdefault(start, []).append(end)
    size = model.config.hidden_size
    zeros = partial(torch.zeros, dtype=torch.float64, device=model.device)
    grams = {start: zeros((size, size)) for start in ends}
    # The products of all cuts with one start lie side by side, so that A'A is decomposed once.
    products = {start: zeros((size, len(behind) * size)) for start, behind in ends.items()}
    squares = dict.fromkeys(ends, 0.0)
    for window in track(windows, "repairs", total=len(windows)):
        layerwise, dense = _dense_streams(model, window)
        sources = _bridged_streams(layerwise, dense, ends, bridges)
        for (start, behind), hidden in zip(ends.items(), sources, strict=True):
            source = _rows(hidden)
            added = torch.cat([_rows(dense[end]) - source for end in behind], dim=1)
            grams[start].addmm_(source.T, source)
            products[start].addmm_(source.T, added)
            squares[start] += float(added.square().sum())
    for start, behind in ends.items():
        gram, product = (sums.pop(start).cpu().numpy() for sums in (grams, products))
        regression = Regression(gram, product, squares[start])
        solution = RidgeSolver(regression).solve(relative_ridge * regression.scale)
        for end, matrix in zip(behind, np.hsplit(solution, len(behind)), strict=True):
            operation = Operation("matrix", np.eye(size) + matrix)
            yield Bridge(start, end, Patch(GapPatch(start, end, (operation,))).to(model.device))


def bridged_losses(
    model: LayerwiseModel, candidates: Iterable[Bridge], bridges: Mapping[int, Bridge]
) -> Iterator[tuple[Bridge, float]]:
    """Yield each candidate with the loss of the model that has it, beside the given bridges.

    Args:
        model: The dense model on the text to judge on.
        candidates: Bridges to try, their starts ascending. One that spans cuts which are already
            there takes the place of their bridges.
        bridges: Bridges that are already there, by the first layers of their cuts.
    """
    hidden = model.embedded
    reached = 0
    for candidate in candidates:
        hidden = run_bridged(model, hidden, reached, candidate.start, bridges)
        reached = candidate.start
        without = candidate.patch(hidden)
        without = run_bridged(model, without, candidate.end, model.n_layers, bridges)
        yield candidate, model.loss(without)


def bridged_errors(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    candidates: Sequence[Bridge],
    bridges: Mapping[int, Bridge],
) -> list[float]:
    """Return how far the stream behind each candidate is from the dense model's.

    The error is the mean over tokens of `|A W - B|^2 / |B|^2`, where A is what enters the candidate
    W in the model with the given bridges, and B what leaves its layers in the dense model. In the
    ratio of the sums the few tokens with massive activations, a thousand times as long as others,
    would decide alone; here every token is measured by its own length.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids `[windows, length]`, run one at a time.
        candidates: Bridges to try, each by itself, their starts ascending. One that spans cuts
            which are already there takes the place of their bridges.
        bridges: Bridges that are already there, by the first layers of their cuts.
    """
    totals = np.zeros(len(candidates))
    starts = [bridge.start for bridge in candidates]
    for window in track(windows, "held-out", total=len(windows)):
        layerwise, dense = _dense_streams(model, window)
        sources = _bridged_streams(layerwise, dense, starts, bridges)
        for index, (bridge, hidden) in enumerate(zip(candidates, sources, strict=True)):
            target = _rows(dense[bridge.end])
            residual = _rows(bridge.patch(hidden.float())) - target
            errors = residual.square().sum(dim=1) / target.square().sum(dim=1)
            totals[index] += float(errors.mean())
    return [float(error) for error in totals / len(windows)]


def _bridged_streams(
    layerwise: LayerwiseModel,
    dense: Sequence[torch.Tensor],
    starts: Iterable[int],
    bridges: Mapping[int, Bridge],
) -> Iterator[torch.Tensor]:
    """Yield what layers read in the model with the given bridges, `[1, length, C]`.

    Args:
        layerwise: The dense model on one window.
        dense: Its stream at every boundary.
        starts: The layers, ascending; none may lie inside a bridged cut.
        bridges: The bridges, by the first layers of their cuts.
    """
    # Up to the first bridge both models compute the same.
    reached = min(bridges, default=layerwise.n_layers)
    hidden = dense[reached]
    for start in starts:
        if start > reached:
            hidden = run_bridged(layerwise, hidden, reached, start, bridges)
            reached = start
        yield hidden if start == reached else dense[start]


def _dense_streams(
    model: PreTrainedModel, window: npt.NDArray[np.int64]
) -> tuple[LayerwiseModel, list[torch.Tensor]]:
    """Run one window; return its runner and the stream at every boundary, `[1, length, C]`."""
    streams: list[torch.Tensor] = []
    with watching_boundaries(model, lambda _, hidden: streams.append(hidden)):
        return LayerwiseModel(model, window[None]), streams


def _rows(hidden: torch.Tensor) -> torch.Tensor:
    """Return the rows of one window, float64 `[length, hidden_size]`."""
    return hidden.double().flatten(0, 1)
