"""Patches that can be trained, and which of their numbers are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.models.patch import Patch
from lpsteps.patch_matrix import patch_matrix
from lpsteps.patches import GapPatch, Operation, OperationKind, PatchSet
from lpsteps.plan import Plan

# How far a start may be from symmetric or diagonal, relative to its largest entry: patches are
# stored as float32.
_TOLERANCE = 1e-5


class TrainablePatches(nn.Module):
    """The patches of a plan with float32 parameters, of which some or all are trained.

    A patch computes in float32 whatever the model's dtype is, also under autocast, and returns the
    dtype of its input.

    Attributes:
        trained: The parameters that require a gradient, in a fixed order: ``gaps.{k}.{name}`` for
            the patch of gap k, and the weights of restored layers under the names that they have in
            :attr:`PatchSet.replacements <lpsteps.patches.PatchSet.replacements>`.
    """

    trained: dict[str, nn.Parameter]

    def __init__(
        self,
        start: PatchSet,
        plan: Plan,
        hidden_size: int,
        settings: DistillationSettings,
        seed: int,
    ) -> None:
        """Take over the patches where the training starts.

        A gap of the plan without a patch starts as the identity.

        Args:
            start: What the training starts from.
            plan: The removed layers.
            hidden_size: Channels of the residual stream.
            settings: The parametrisation, and the rank of a low-rank update.
            seed: Seed of the low-rank update.

        Raises:
            LpstepsError: The start does not have the form that the parametrisation needs, or
                nothing in it can be trained.
        """
        super().__init__()
        self._start = start
        self._spans = plan.gaps
        generator = np.random.default_rng(seed)
        patched = {gap.start: gap for gap in start.gaps}

        def trainable(gap: GapPatch) -> _TrainablePatch:
            match settings.parametrisation:
                case "full":
                    return _Full(gap, hidden_size)
                case "symmetric":
                    return _Symmetric(gap, hidden_size)
                case "diagonal":
                    return _Diagonal(gap, hidden_size)
                case "low_rank":
                    return _LowRank(gap, hidden_size, settings.rank, generator)
                case "scalar":
                    return _Scalar(gap, hidden_size)
                case "own":
                    return _Own(gap, hidden_size)

        self.gaps = nn.ModuleList(
            trainable(patched.get(first, GapPatch(first, end, ()))) for first, end in plan.gaps
        )
        restored: list[str] = []
        if settings.parametrisation == "own":
            layers = tuple(f"layers.{layer}." for layer in start.restored)
            restored = sorted(name for name in start.replacements if name.startswith(layers))
        self._weights = nn.ParameterList(_parameter(start.replacements[name]) for name in restored)
        self.trained = {
            name: parameter
            for name, parameter in self.gaps.named_parameters(prefix="gaps")
            if parameter.requires_grad
        }
        self._restored = dict(zip(restored, self._weights, strict=True))
        self.trained.update(self._restored)
        if not self.trained:
            raise LpstepsError(
                f"parametrisation: {settings.parametrisation}: the start has no operation and no "
                "restored layer to train; use full, low_rank or scalar"
            )

    def forward(self, hidden: torch.Tensor, boundary: int) -> torch.Tensor:
        """Apply the patch of the gap that ends at a boundary; elsewhere return the input.

        Args:
            hidden: What enters the layer of that number, ``[..., hidden_size]``.
            boundary: Number of the layer; the number of layers stands for the final norm.

        Returns:
            Hidden states of the same shape and dtype.
        """
        for (_, end), patch in zip(self._spans, self.gaps, strict=True):
            if end == boundary:
                with torch.autocast(device_type=hidden.device.type, enabled=False):
                    rows: torch.Tensor = patch(hidden.float())
                return rows.to(hidden.dtype)
        return hidden

    def patch_set(self) -> PatchSet:
        """Return copies of the patches as they are, beside the start's replacements."""
        gaps = []
        for (start, end), patch in zip(self._spans, self.gaps, strict=True):
            operations = cast(_TrainablePatch, patch).operations()
            if operations:
                gaps.append(GapPatch(start, end, operations))
        weights = {name: _array(parameter) for name, parameter in self._restored.items()}
        return PatchSet(
            tuple(gaps),
            replacements={**self._start.replacements, **weights},
            restored=self._start.restored,
        )


class _TrainablePatch(nn.Module):
    """Maps float32 rows ``[..., hidden_size]`` to rows of the same shape."""

    def operations(self) -> tuple[Operation, ...]:
        """Return what it computes, with copies of its weights."""
        raise NotImplementedError


class _Full(_TrainablePatch):
    """``x @ W``."""

    def __init__(self, gap: GapPatch, hidden_size: int) -> None:
        super().__init__()
        self.matrix = _parameter(_multiplied_out(gap, hidden_size, "full"))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.matrix

    def operations(self) -> tuple[Operation, ...]:
        return (Operation("matrix", _array(self.matrix)),)


class _Symmetric(_TrainablePatch):
    """``x @ W`` with ``W = (A + A.T) / 2``."""

    def __init__(self, gap: GapPatch, hidden_size: int) -> None:
        super().__init__()
        matrix = _multiplied_out(gap, hidden_size, "symmetric")
        deviation = np.abs(matrix - matrix.T).max() / np.abs(matrix).max()
        if not deviation <= _TOLERANCE:
            raise LpstepsError(
                f"parametrisation: symmetric: the start's gap [{gap.start}, {gap.end}) deviates by "
                f"{deviation:.2g} from a symmetric matrix; use full, or another start"
            )
        self.matrix = _parameter(matrix)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self._symmetric()

    def operations(self) -> tuple[Operation, ...]:
        return (Operation("matrix", _array(self._symmetric())),)

    def _symmetric(self) -> torch.Tensor:
        return (self.matrix + self.matrix.T) / 2.0


class _Diagonal(_TrainablePatch):
    """``((x @ H) * d) @ H.T`` with LinearPatch's basis H."""

    basis: torch.Tensor

    def __init__(self, gap: GapPatch, hidden_size: int) -> None:
        super().__init__()
        basis = basis_matrix(hidden_size)
        rotated = basis.matrix.T @ _multiplied_out(gap, hidden_size, "diagonal") @ basis.matrix
        scales = np.diag(rotated)
        deviation = np.abs(rotated - np.diag(scales)).max() / np.abs(rotated).max()
        if not deviation <= _TOLERANCE:
            raise LpstepsError(
                f"parametrisation: diagonal: the start's gap [{gap.start}, {gap.end}) deviates by "
                f"{deviation:.2g} from a diagonal matrix in the basis {basis.name}; use full, or "
                "another start"
            )
        self.scales = _parameter(scales)
        self.register_buffer("basis", torch.tensor(basis.matrix, dtype=torch.float32))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return ((rows @ self.basis) * self.scales) @ self.basis.T

    def operations(self) -> tuple[Operation, ...]:
        basis = basis_matrix(len(self.scales)).matrix
        return (Operation("matrix", patch_matrix(basis, _array(self.scales).astype(np.float64))),)


class _LowRank(_TrainablePatch):
    """``y + (y @ U) @ V.T`` behind the start y; V is zero at first."""

    def __init__(
        self, gap: GapPatch, hidden_size: int, rank: int, generator: np.random.Generator
    ) -> None:
        super().__init__()
        self.start = Patch(gap)
        self.u = _parameter(generator.standard_normal((hidden_size, rank)) / np.sqrt(hidden_size))
        self.v = _parameter(np.zeros((hidden_size, rank)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        rows = self.start(rows)
        return rows + (rows @ self.u) @ self.v.T

    def operations(self) -> tuple[Operation, ...]:
        update = Operation("low_rank", np.stack([_array(self.u), _array(self.v)]))
        return (*_operations(self.start), update)


class _Scalar(_TrainablePatch):
    """``c * y`` behind the start y."""

    def __init__(self, gap: GapPatch, hidden_size: int) -> None:
        super().__init__()
        self.start = Patch(gap)
        self.factor = _parameter(np.ones(1))
        self._hidden_size = hidden_size

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.start(rows) * self.factor)

    def operations(self) -> tuple[Operation, ...]:
        factor = _trained_operation("scalar", _array(self.factor), self._hidden_size)
        return (*_operations(self.start), factor)


class _Own(_TrainablePatch):
    """The start's operations, all of their weights trained."""

    def __init__(self, gap: GapPatch, hidden_size: int) -> None:
        super().__init__()
        self._hidden_size = hidden_size
        # A rotation does not stay one.
        self.chain = Patch(
            GapPatch(
                gap.start,
                gap.end,
                tuple(
                    Operation("matrix", operation.weight)
                    if operation.kind == "rotation"
                    else operation
                    for operation in gap.operations
                ),
            )
        ).requires_grad_(True)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.chain(rows))

    def operations(self) -> tuple[Operation, ...]:
        return tuple(
            _trained_operation(kind, _array(weight), self._hidden_size)
            for kind, weight in zip(self.chain.kinds, self.chain.weights, strict=True)
        )


def _multiplied_out(
    gap: GapPatch, hidden_size: int, parametrisation: str
) -> npt.NDArray[np.float64]:
    """Return the matrix that a chain of linear operations amounts to.

    Raises:
        LpstepsError: An operation is not linear.
    """
    matrix = np.eye(hidden_size)
    for operation in gap.operations:
        weight = operation.weight.astype(np.float64)
        match operation.kind:
            case "scalar" | "scale":
                matrix = matrix * weight
            case "matrix" | "rotation":
                matrix = matrix @ weight
            case "low_rank":
                matrix = matrix + (matrix @ weight[0]) @ weight[1].T
            case "shift" | "gated_mlp":
                raise LpstepsError(
                    f"parametrisation: {parametrisation}: the start's gap [{gap.start}, {gap.end}) "
                    f"has a {operation.kind}, which no matrix can express; use own, low_rank or "
                    "scalar"
                )
    return matrix


def _parameter(values: npt.ArrayLike) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.asarray(values), dtype=torch.float32))


def _array(values: torch.Tensor) -> npt.NDArray[np.float32]:
    # A copy: the optimiser goes on writing into the parameters.
    return values.detach().cpu().numpy().copy()


def _trained_operation(
    kind: OperationKind, weight: npt.NDArray[np.float32], hidden_size: int
) -> Operation:
    if kind == "scalar" and weight[0] <= 0:
        # A scalar is positive, so that it can be folded; a training may leave it behind zero.
        return Operation("scale", np.repeat(weight, hidden_size))
    return Operation(kind, weight)


def _operations(chain: Patch) -> tuple[Operation, ...]:
    weights: Iterable[torch.Tensor] = chain.weights
    return tuple(
        Operation(kind, _array(weight)) for kind, weight in zip(chain.kinds, weights, strict=True)
    )
