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
from lpsteps.models.twin_streams import TwinStreams, ordinary_rows
from lpsteps.plan import Plan
from lpsteps.progress import track


@dataclass(frozen=True, eq=False)
class Refit:
    """What a refit has found.

    Attributes:
        patches: The matrix of each gap, rows from the left, float64 `[hidden_size, hidden_size]`.
        weights: New weights by their names relative to the backbone, in the dense numbering.
        errors: By place, `gaps.{k}` or `layers.{l}`: the squared error of the repaired stream
            against the dense one behind it, relative to the dense stream, over ordinary tokens,
            before and after.
    """

    patches: list[npt.NDArray[np.float64]] = field(default_factory=list)
    weights: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)


def refit(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    plan: Plan,
    *,
    ridge: float,
    patch_ridge: float,
    in_front: bool = True,
    behind: int | None = None,
    batch: int = 4,
) -> Refit:
    """Fit patches and output projections so that the pruned model follows the dense one.

    The layers are visited once, first to last. Sums are float64, the streams are the model's.
    Projections are fitted on ordinary tokens only; patches on all, because the massive tokens pass
    through them, too.

    Args:
        model: The dense model; it is left as it is.
        windows: Calibration text, token ids `[windows, length]`.
        plan: The layers that leave.
        ridge: Ridge on changes of projections, in units of the mean eigenvalue of their input.
        patch_ridge: Ridge on patches minus identity, in units of the mean eigenvalue of the stream.
        in_front: Whether the MLP in front of a gap is fitted together with the patch.
        behind: Layers to refit behind each gap, None for all up to the next gap.
        batch: Windows per forward pass.

    Raises:
        LpstepsError: A norm follows the branches in this family, so that their output projections
            are not the last thing that happens to them; or an activation is not finite.
    """
    decoder = decoder_of(model)
    if any(branch_outputs(layer).normalised for layer in decoder.layers):
        raise LpstepsError(
            f"model_type: {model.config.model_type}: normalises what its branches write to the "
            "stream; choose a repair that leaves the projections alone, such as least_squares"
        )
    names = {module: name for name, module in decoder.backbone.named_modules()}
    streams = TwinStreams(model, windows, batch)
    ends = dict(plan.gaps)
    survivors = [layer for layer in range(plan.n_layers) if layer not in plan.layers]
    reach = plan.n_layers if behind is None else behind
    done = Refit()
    to_refit = 0
    with torch.inference_mode():
        if 0 in ends:
            _cross(streams, 0, ends[0])
            _fit_patch(streams, "gaps.0", patch_ridge, done)
            to_refit = reach
        for layer in track(survivors, "refit"):
            stand_in = copy.deepcopy(decoder.layers[layer])
            originals = branch_outputs(decoder.layers[layer])
            outputs = branch_outputs(stand_in)
            streams.dense = streams.run_dense(layer)
            end = ends.get(layer + 1)
            if end is not None:
                _cross(streams, layer + 1, end)
            changed: list[tuple[nn.Linear, nn.Linear]] = []
            if end is not None and in_front:
                _fit_in_front(streams, layer, stand_in, outputs.mlp, ridge, patch_ridge)
                changed = [(originals.mlp, outputs.mlp)]
            elif end is None and to_refit > 0:
                before = _relative_error(streams.dense, streams.run_repaired(layer, stand_in))
                for projection in (outputs.attention, outputs.mlp):
                    _fit_projection(streams, layer, stand_in, projection, ridge)
                changed = [(originals.attention, outputs.attention), (originals.mlp, outputs.mlp)]
            streams.repaired = streams.run_repaired(layer, stand_in)
            if end is not None:
                _fit_patch(streams, f"gaps.{len(done.patches)}", patch_ridge, done)
                to_refit = reach
            elif changed:
                after = _relative_error(streams.dense, streams.repaired)
                done.errors[f"layers.{layer}"] = (before, after)
                to_refit -= 1
            for original, projection in changed:
                weight = projection.weight.float().cpu().numpy()
                done.weights[f"{names[original]}.weight"] = weight
    return done


def _cross(streams: TwinStreams, start: int, end: int) -> None:
    """Let the dense stream run through the layers of a gap, which the repaired one skips."""
    for layer in range(start, end):
        streams.dense = streams.run_dense(layer)


def _fit_patch(streams: TwinStreams, place: str, relative_ridge: float, done: Refit) -> None:
    """Fit the patch of a gap, and take the repaired stream through it."""
    sums = _Sums(streams.dense[0].shape[-1], streams.dense[0].shape[-1], streams.dense[0].device)
    for repaired, dense in zip(streams.repaired, streams.dense, strict=True):
        rows = repaired.flatten(0, -2)
        sums.add(rows, dense.flatten(0, -2) - rows)
    added = sums.solve(relative_ridge * sums.mean_eigenvalue())
    patch = torch.eye(len(added), dtype=added.dtype, device=added.device) + added
    before = _relative_error(streams.dense, streams.repaired)
    streams.repaired = [(hidden.double() @ patch).to(hidden) for hidden in streams.repaired]
    done.errors[place] = (before, _relative_error(streams.dense, streams.repaired))
    done.patches.append(patch.cpu().numpy())


def _fit_in_front(
    streams: TwinStreams,
    layer: int,
    stand_in: nn.Module,
    projection: nn.Linear,
    relative_ridge: float,
    relative_patch_ridge: float,
) -> None:
    """Fit the MLP's output projection together with the patch that follows, and change it.

    With the stream A behind the layer and what the projection reads h, the joint regression
    ``A W + h D ~ X_e`` is realised by the patch W behind a projection that adds ``D W^-1``.
    """
    hidden_size = streams.dense[0].shape[-1]
    inputs = hidden_size + projection.in_features
    sums = _Sums(inputs, hidden_size, projection.weight.device)
    watched = streams.inputs_of(projection, layer, stand_in)
    for (read, output), target, ordinary in zip(
        watched, streams.dense, ordinary_rows(streams.dense), strict=True
    ):
        rows = output.flatten(0, -2)
        # A massive token counts for the patch, which it passes through, and not for the projection.
        features = torch.cat([rows, read * ordinary.unsqueeze(1)], dim=1)
        sums.add(features, target.flatten(0, -2) - rows)
    eigenvalues = sums.gram.diagonal()
    ridge = torch.cat(
        [
            (relative_patch_ridge * eigenvalues[:hidden_size].mean()).expand(hidden_size),
            (relative_ridge * eigenvalues[hidden_size:].mean()).expand(projection.in_features),
        ]
    )
    solution = sums.solve(ridge)
    patch = torch.eye(hidden_size).to(solution) + solution[:hidden_size]
    change = torch.linalg.solve(patch, solution[hidden_size:], left=False)
    projection.weight += change.T.to(projection.weight)


def _fit_projection(
    streams: TwinStreams,
    layer: int,
    stand_in: nn.Module,
    projection: nn.Linear,
    relative_ridge: float,
) -> None:
    """Change one projection of a stand-in so that its output comes near the dense stream."""
    sums = _Sums(projection.in_features, projection.out_features, projection.weight.device)
    watched = streams.inputs_of(projection, layer, stand_in)
    for (read, output), target, ordinary in zip(
        watched, streams.dense, ordinary_rows(streams.dense), strict=True
    ):
        sums.add(read[ordinary], (target - output).flatten(0, -2)[ordinary])
    change = sums.solve(relative_ridge * sums.mean_eigenvalue())
    projection.weight += change.T.to(projection.weight)


def _relative_error(dense: list[torch.Tensor], repaired: list[torch.Tensor]) -> float:
    """Return the squared distance of two streams relative to the first, over ordinary tokens."""
    distance = norm = 0.0
    for expected, found, ordinary in zip(dense, repaired, ordinary_rows(dense), strict=True):
        rows = expected.flatten(0, -2)[ordinary].double()
        distance += float((found.flatten(0, -2)[ordinary].double() - rows).square().sum())
        norm += float(rows.square().sum())
    return distance / norm


class _Sums:
    """Normal equations of a regression, float64, on the device of the rows.

    Attributes:
        gram: Sum of the products of the inputs, `[inputs, inputs]`.
        products: Sum of the products of inputs and outputs, `[inputs, outputs]`.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.gram = torch.zeros((inputs, inputs), dtype=torch.float64, device=device)
        self.products = torch.zeros((inputs, outputs), dtype=torch.float64, device=device)

    def add(self, rows: torch.Tensor, targets: torch.Tensor) -> None:
        """Add tokens: rows `[tokens, inputs]` and `[tokens, outputs]`."""
        rows = rows.double()
        self.gram.addmm_(rows.T, rows)
        self.products.addmm_(rows.T, targets.double())

    def mean_eigenvalue(self) -> float:
        """Return the mean eigenvalue of the Gram matrix, the unit of a relative ridge."""
        return float(self.gram.diagonal().mean())

    def solve(self, ridge: float | torch.Tensor) -> torch.Tensor:
        """Return the ridge solution, `[inputs, outputs]`; the ridge may differ by input.

        Raises:
            LpstepsError: A sum is not finite, or the ridge is too small for the rows.
        """
        if not (torch.isfinite(self.gram).all() and torch.isfinite(self.products).all()):
            raise LpstepsError("windows: activations are not finite; set dtype: float32")
        ridges = torch.as_tensor(ridge, dtype=torch.float64, device=self.gram.device)
        system = self.gram + torch.diag(ridges.expand(len(self.gram)))
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed:
            raise LpstepsError(
                "ridge: too small for this text, its tokens do not span all channels; "
                "use a larger ridge or more calibration windows"
            )
        return torch.cholesky_solve(self.products, factor)
