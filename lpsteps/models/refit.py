"""Closed-form repair of a pruned model: patches, and output projections around them, refitted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.twin_streams import TwinStreams, ordinary_tokens, relative_errors
from lpsteps.plan import Plan
from lpsteps.progress import track

Errors = tuple[float, float]

# Inputs whose products with those from there on are taken at once: few enough that hardly any
# product is taken twice, many enough for a product of matrices.
_COLUMNS_PER_PRODUCT = 256


@dataclass(frozen=True)
class RefitSettings:
    """How a refit is done.

    Attributes:
        ridge: Ridge on the change of projections, in units of the mean eigenvalue of what they
            read.
        patch_ridge: Ridge on patches minus identity, in units of the mean eigenvalue of the stream.
        in_front: Whether the MLP in front of a gap is fitted together with the patch.
        behind: Layers to refit behind each gap, None for all up to the layer in front of the next.
        batch: Windows per forward pass.
    """

    ridge: float
    patch_ridge: float
    in_front: bool = True
    behind: int | None = None
    batch: int = 4


@dataclass(eq=False)
class Refit:
    """What a refit has found, filled layer by layer.

    Attributes:
        patches: The matrix of each gap, rows from the left, float64 `[hidden_size, hidden_size]`.
        weights: New weights by their names relative to the backbone, in the dense numbering.
        errors: Relative errors of the repaired stream (see
            :func:`~lpsteps.models.twin_streams.relative_errors`) before and after a refit, by
            place: `gaps.{k}` behind the patch, `layers.{l}` behind a layer whose two projections
            were refitted.
    """

    patches: list[npt.NDArray[np.float64]] = field(default_factory=list)
    weights: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    errors: dict[str, tuple[Errors, Errors]] = field(default_factory=dict)


def refit(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    plan: Plan,
    settings: RefitSettings,
) -> Refit:
    """Fit patches and output projections so that the pruned model follows the dense one.

    The layers are visited once, first to last. Sums are float64, the streams are the model's.
    Projections are fitted on ordinary tokens only; patches on all, because the massive tokens pass
    through them, too.

    Memory beside the model's own, all on its device: the two streams (see
    :class:`~lpsteps.models.twin_streams.TwinStreams`) and a third while a projection behind a gap
    is fitted, one layer's copy, and the largest of the regressions, that of patch and MLP in front
    of a gap. With C channels and I numbers that the MLP's output projection reads, this takes
    float64 numbers: ``(C + I)^2`` for the Gram matrix, which is factored in place, with at most
    ``5 * (C + I) * C`` for products, solution and the new weight, or the rows of a batch,
    ``tokens * (C + I)`` and as many again in the model's dtype. New weights, float32, are kept in
    main memory.

    Args:
        model: The dense model; it is left as it is.
        windows: Calibration text, token ids `[windows, length]`.
        plan: The layers that leave.
        settings: Ridges, and what to refit.

    Raises:
        LpstepsError: A norm follows the branches in this family, so that their output projections
            are not the last thing that happens to them; an activation is not finite; or a ridge is
            too small for the text.
    """
    decoder = decoder_of(model)
    if any(branch_outputs(layer).normalised for layer in decoder.layers):
        raise LpstepsError(
            f"model_type: {model.config.model_type}: normalises what its branches write to the "
            "stream; choose a repair that leaves the projections alone, such as least_squares"
        )
    names = {module: name for name, module in decoder.backbone.named_modules()}
    streams = TwinStreams(model, windows, settings.batch)
    ends = dict(plan.gaps)
    survivors = [layer for layer in range(plan.n_layers) if layer not in plan.layers]
    reach = plan.n_layers if settings.behind is None else settings.behind
    left_to_refit = 0
    done = Refit()
    with torch.inference_mode():
        if 0 in ends:
            _cross(streams, 0, ends[0])
            _fit_patch(streams, settings, done)
            left_to_refit = reach
        for layer in track(survivors, "refit"):
            dense_layer = decoder.layers[layer]
            stand_in = copy.deepcopy(dense_layer)
            original, changed = branch_outputs(dense_layer), branch_outputs(stand_in)
            end = ends.get(layer + 1)
            streams.run_dense(layer)
            if end is None and left_to_refit:
                before = _fit_projection(streams, layer, stand_in, changed.attention, settings)
                _fit_projection(streams, layer, stand_in, changed.mlp, settings)
                streams.run_repaired(layer, stand_in)
                after = relative_errors(streams.dense, streams.repaired)
                done.errors[f"layers.{layer}"] = (before, after)
                left_to_refit -= 1
            elif end is not None and settings.in_front:
                _cross(streams, layer + 1, end)
                _fit_in_front(streams, layer, stand_in, changed.mlp, settings)
                streams.run_repaired(layer, stand_in)
            elif done.patches:
                streams.run_repaired(layer, stand_in)
            else:
                # Nothing has changed so far: the dense stream is the repaired one.
                streams.repaired = list(streams.dense)
            if end is not None:
                if not settings.in_front:
                    _cross(streams, layer + 1, end)
                _fit_patch(streams, settings, done)
                left_to_refit = reach
            for old, new in ((original.attention, changed.attention), (original.mlp, changed.mlp)):
                if not torch.equal(old.weight, new.weight):
                    done.weights[f"{names[old]}.weight"] = new.weight.float().cpu().numpy()
    return done


def _cross(streams: TwinStreams, start: int, end: int) -> None:
    """Let the dense stream run through the layers of a gap, which the repaired one skips."""
    for layer in range(start, end):
        streams.run_dense(layer)


def _fit_patch(streams: TwinStreams, settings: RefitSettings, done: Refit) -> None:
    """Fit the patch of a gap, and take the repaired stream through it."""
    size = streams.dense[0].shape[-1]
    equations = _NormalEquations(size, size, streams.dense[0].device)
    for repaired, dense in zip(streams.repaired, streams.dense, strict=True):
        rows = repaired.flatten(0, -2)
        equations.add(rows, _missing(dense, rows))
    added = equations.solve(settings.patch_ridge * equations.mean_squares(), "patch_ridge")
    patch = torch.eye(size).to(added) + added
    before = relative_errors(streams.dense, streams.repaired)
    for index, hidden in enumerate(streams.repaired):
        streams.repaired[index] = (hidden.double() @ patch).to(hidden)
    after = relative_errors(streams.dense, streams.repaired)
    done.errors[f"gaps.{len(done.patches)}"] = (before, after)
    done.patches.append(patch.cpu().numpy())


def _fit_in_front(
    streams: TwinStreams,
    layer: int,
    stand_in: nn.Module,
    projection: nn.Linear,
    settings: RefitSettings,
) -> None:
    """Change the MLP's output projection in front of a gap so that a patch can do the rest.

    With the stream A behind the layer and what the projection reads h, the regression
    ``A W + h D ~ X_e`` is what a patch W can reach behind a projection that adds ``D W^-1``. The
    change is kept; the patch is fitted again afterwards, on the stream as it then is, because the
    massive tokens, which do not count for D, see the change as well.
    """
    hidden_size = streams.dense[0].shape[-1]
    equations = _NormalEquations(
        hidden_size + projection.in_features, hidden_size, streams.dense[0].device
    )
    watched = streams.read_by(projection, layer, stand_in)
    for (read, rows), target, ordinary in zip(
        watched, streams.dense, ordinary_tokens(streams.dense), strict=True
    ):
        # A massive token counts for the patch, which it passes through, and not for the projection.
        features = torch.cat([rows, read * ordinary.unsqueeze(1)], dim=1)
        equations.add(features, _missing(target, rows))
    squares = equations.gram.diagonal()
    ridge = torch.cat(
        [
            (settings.patch_ridge * squares[:hidden_size].mean()).expand(hidden_size),
            (settings.ridge * squares[hidden_size:].mean()).expand(projection.in_features),
        ]
    )
    solution = equations.solve(ridge, "ridge")
    patch = torch.eye(hidden_size).to(solution) + solution[:hidden_size]
    change, singular = torch.linalg.solve_ex(patch, solution[hidden_size:], left=False)
    if singular:
        raise LpstepsError(
            f"layer {layer}: the patch behind it is singular, so that no change of its MLP can "
            "make up for it; set in_front: false"
        )
    projection.weight.copy_(projection.weight.double() + change.T.to(projection.weight.device))


def _fit_projection(
    streams: TwinStreams,
    layer: int,
    stand_in: nn.Module,
    projection: nn.Linear,
    settings: RefitSettings,
) -> Errors:
    """Change one projection of a stand-in so that its output comes near the dense stream.

    Returns:
        The relative errors before the change.
    """
    equations = _NormalEquations(
        projection.in_features, projection.out_features, streams.dense[0].device
    )
    found: list[torch.Tensor] = []
    watched = streams.read_by(projection, layer, stand_in)
    for (read, rows), target, ordinary in zip(
        watched, streams.dense, ordinary_tokens(streams.dense), strict=True
    ):
        equations.add(read[ordinary], _missing(target, rows)[ordinary])
        found.append(rows)
    change = equations.solve(settings.ridge * equations.mean_squares(), "ridge")
    projection.weight.copy_(projection.weight.double() + change.T.to(projection.weight.device))
    return relative_errors(streams.dense, found)


def _missing(dense: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """What rows lack to be the dense stream; bfloat16 would round most of the difference off."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return dense.flatten(0, -2).to(dtype) - rows.to(dtype)


class _NormalEquations:
    """Normal equations of a regression, float64, on the device of the rows.

    Attributes:
        gram: Sum of the products of the inputs, `[inputs, inputs]`. It is symmetric: what is below
            its diagonal does not count.
        products: Sum of the products of inputs and outputs, `[inputs, outputs]`.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.gram = torch.zeros((inputs, inputs), dtype=torch.float64, device=device)
        self.products = torch.zeros((inputs, outputs), dtype=torch.float64, device=device)

    def add(self, rows: torch.Tensor, targets: torch.Tensor) -> None:
        """Add tokens: rows `[tokens, inputs]` and `[tokens, outputs]`."""
        rows = rows.double()
        for first in range(0, len(self.gram), _COLUMNS_PER_PRODUCT):
            columns = rows[:, first : first + _COLUMNS_PER_PRODUCT]
            self.gram[first : first + _COLUMNS_PER_PRODUCT, first:].addmm_(
                columns.T, rows[:, first:]
            )
        self.products.addmm_(rows.T, targets.double())

    def mean_squares(self) -> float:
        """Return the mean of the squares of the inputs, the mean eigenvalue of their products."""
        return float(self.gram.diagonal().mean())

    def solve(self, ridge: float | torch.Tensor, parameter: str) -> torch.Tensor:
        """Return the ridge solution, `[inputs, outputs]`; the ridge may differ by input.

        The solution takes new memory, the factor that of the Gram matrix: solve once.

        Args:
            ridge: Added to the diagonal of the Gram matrix.
            parameter: What sets the ridge, for the message.

        Raises:
            LpstepsError: The ridge is too small for the rows.
        """
        self.gram.diagonal().add_(ridge)
        # LAPACK keeps matrices by columns. Only so can it factor this one, which is symmetric, in
        # its own place. It reads what is below the diagonal by columns, here above it.
        by_columns = self.gram.mT
        failed = torch.empty((), dtype=torch.int32, device=self.gram.device)
        factor, _ = torch.linalg.cholesky_ex(by_columns, out=(by_columns, failed))
        if failed:
            raise LpstepsError(
                f"{parameter}: too small for this text, whose tokens do not span all inputs; "
                "use a larger one or more calibration windows"
            )
        half_solved = torch.linalg.solve_triangular(factor, self.products, upper=False)
        solution: torch.Tensor = torch.linalg.solve_triangular(factor.mT, half_solved, upper=True)
        return solution
