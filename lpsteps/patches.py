"""Patches in and out of files, independent of any deep-learning framework.

A patch acts on the residual stream where it enters the first layer after a gap (or the final norm).
It is a chain of operations on rows, the same for every token. Recovery methods build patches, the
surgery step inserts them. A patch set may also give parameters of the remaining model new values,
which costs nothing at inference, and bring back single removed layers with other weights.

A patch set is stored as two files side by side: ``<name>.safetensors`` with the tensors, and
``<name>.manifest.json`` with their digests and the list of gaps. The manifest is small, so it is
the one that a workflow watches; the digests tie it to the exact bytes of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.artifacts import (
    tensor_digests,
    verified_tensors,
    write_json,
    write_tensors,
)
from lpsteps.errors import LpstepsError
from lpsteps.validation import validated_result

MANIFEST_SUFFIX = ".manifest.json"
TENSORS_SUFFIX = ".safetensors"
_REPLACEMENT = "replacements."


OperationKind = Literal["scalar", "scale", "matrix", "rotation", "shift", "low_rank", "gated_mlp"]

_SHAPES: dict[OperationKind, str] = {
    "scalar": "[1]",
    "scale": "[hidden_size]",
    "matrix": "[hidden_size, hidden_size]",
    "rotation": "[hidden_size, hidden_size]",
    "shift": "[hidden_size]",
    "low_rank": "[2, hidden_size, rank]",
    "gated_mlp": "[3, hidden_size, intermediate_size]",
}
_FOLDABLE: frozenset[OperationKind] = frozenset({"scalar", "rotation"})
ROTATION_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation on rows ``x`` of the residual stream, ``[..., hidden_size]`` in float32.

    ============= =================================== ============================================
    kind          weight ``w``                        result
    ============= =================================== ============================================
    ``scalar``    ``[1]``, positive                   ``x * w``
    ``scale``     ``[hidden_size]``                   ``x * w``
    ``matrix``    ``[hidden_size, hidden_size]``      ``x @ w``
    ``rotation``  ``[hidden_size, hidden_size]``      ``x @ w``, where ``w = c Q``: a positive
                                                      number times an orthogonal matrix
    ``shift``     ``[hidden_size]``                   ``x + w``
    ``low_rank``  ``[2, hidden_size, rank]``          ``x + (x @ w[0]) @ w[1].T``
    ``gated_mlp`` ``[3, hidden_size, intermediate]``  ``x + (silu(r @ w[0]) * (r @ w[1])) @ w[2].T``
                                                      with ``r = x / sqrt(mean(x ** 2) + 1e-6)``
    ============= =================================== ============================================

    A normalised reader sees the same direction whether or not the stream is rescaled as a whole,
    and can undo a rotation. So ``scalar`` and ``rotation`` can be folded into the weights of a
    stock architecture, the other kinds cannot.

    Attributes:
        kind: What is computed.
        weight: Floating-point weights; float64 while they are built, float32 once stored.

    Raises:
        LpstepsError: When the shape does not belong to the kind, a weight is not finite, a scalar
            is not positive, or a rotation is not orthogonal up to a factor: an entry of
            ``w.T @ w - c**2 I`` exceeds ``1e-5 c**2``, with ``c**2`` the mean of the diagonal.
    """

    kind: OperationKind
    weight: npt.NDArray[Any]

    def __post_init__(self) -> None:
        shape = self.weight.shape
        fits = {
            "scalar": shape == (1,),
            "scale": len(shape) == 1,
            "matrix": len(shape) == 2 and shape[0] == shape[-1],
            "rotation": len(shape) == 2 and shape[0] == shape[-1],
            "shift": len(shape) == 1,
            "low_rank": len(shape) == 3 and shape[0] == 2,
            "gated_mlp": len(shape) == 3 and shape[0] == 3,
        }[self.kind]
        if not fits or self.weight.size == 0:
            raise LpstepsError(
                f"operation: {self.kind} of shape {list(shape)}: must be {_SHAPES[self.kind]}"
            )
        if not np.isfinite(self.weight).all():
            raise LpstepsError(f"operation: {self.kind}: every weight must be finite")
        if self.kind == "scalar" and self.weight[0] <= 0:
            raise LpstepsError(f"operation: scalar: {self.weight[0]:g}: must be positive")
        if self.kind == "rotation":
            gram = self.weight.astype(np.float64).T @ self.weight.astype(np.float64)
            square = np.trace(gram) / len(gram)
            deviation = np.abs(gram - square * np.eye(len(gram))).max()
            if not deviation <= ROTATION_TOLERANCE * square or square == 0:
                raise LpstepsError(
                    f"operation: rotation: deviates by {deviation:.2g} from an orthogonal matrix "
                    f"times {np.sqrt(square):.6g}: use kind matrix for a general matrix"
                )

    @property
    def hidden_size(self) -> int | None:
        """Channels of the rows that it acts on; None when it takes any number."""
        if self.kind == "scalar":
            return None
        return int(self.weight.shape[1 if self.weight.ndim == 3 else 0])


@dataclass(frozen=True, eq=False)
class GapPatch:
    """The operations that stand in for the removed layers ``[start, end)``, applied in order."""

    start: int
    end: int
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise LpstepsError(f"gap: [{self.start}, {self.end}): start must lie before end")


@dataclass(frozen=True, eq=False)
class PatchSet:
    """The patches of one pruned model.

    Attributes:
        gaps: At most one patch per gap, ascending; empty when the model is left as pruned.
        audit: Float64 tensors that explain the weights (for example the scales behind a matrix).
            They are stored beside the weights and never used by the model.
        replacements: New values of parameters, each of the parameter's own shape, under their names
            relative to the backbone, with the layers called ``layers``, whatever the family calls
            them, and numbered as in the *dense* model (for example
            ``layers.13.mlp.down_proj.weight``).
        restored: Removed layers that stay after all, at their place in the gap and with all of
            their parameters replaced, ascending.

    Raises:
        LpstepsError: When gaps or restored layers are not ascending, a replacement is not finite,
            or a restored layer has none.
    """

    gaps: tuple[GapPatch, ...] = ()
    audit: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    replacements: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    restored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for before, after in pairwise(self.gaps):
            if after.start < before.end:
                raise LpstepsError(
                    f"gap: [{after.start}, {after.end}): must lie behind the one that ends at "
                    f"{before.end}"
                )
        if self.restored != tuple(sorted(set(self.restored))):
            raise LpstepsError(
                f"restored: {list(self.restored)}: must ascend, each layer named once"
            )
        for name, values in self.replacements.items():
            if not np.isfinite(values).all():
                raise LpstepsError(f"replacements: {name}: every value must be finite")
        for layer in self.restored:
            if not any(name.startswith(f"layers.{layer}.") for name in self.replacements):
                raise LpstepsError(
                    f"restored: {layer}: replacements must hold the layer's parameters"
                )

    @property
    def parameters(self) -> int:
        """Parameters that the patches add to the pruned model.

        Those of the operations and of the restored layers; other replacements cost nothing.
        """
        operations = sum(operation.weight.size for gap in self.gaps for operation in gap.operations)
        return operations + sum(
            values.size
            for name, values in self.replacements.items()
            if name.startswith(tuple(f"layers.{layer}." for layer in self.restored))
        )

    @property
    def foldable(self) -> bool:
        """Whether the patched model equals one of the dense model's own architecture.

        True when every operation is a scalar or a rotation, and when there is none at all.
        """
        return all(operation.kind in _FOLDABLE for gap in self.gaps for operation in gap.operations)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class _StoredOperation(_Strict):
    kind: OperationKind
    tensor: str


class _StoredGap(_Strict):
    start: int
    end: int
    operations: list[_StoredOperation]


class _StoredTensor(_Strict):
    sha256: str
    dtype: str
    shape: list[int]


class PatchManifest(_Strict):
    """The contents of ``patch.manifest.json``.

    Attributes:
        recovery: Name of the recovery that built the patches.
        parameters: Parameters that the patches add to the pruned model.
        foldable: Whether they can be folded into the weights of the model's own architecture.
        gaps: The operations, by gap.
        replacements: Names of parameters with new values.
        restored: Removed layers that stay after all.
        tensors: Digests of the stored tensors.
    """

    version: Literal[2] = Field(default=2, alias="schema")
    recovery: str
    parameters: int
    foldable: bool
    gaps: list[_StoredGap]
    replacements: list[str]
    restored: list[int]
    tensors: dict[str, _StoredTensor]

    @model_validator(mode="after")
    def _check_parameters(self) -> PatchManifest:
        names = [operation.tensor for gap in self.gaps for operation in gap.operations]
        names += [_REPLACEMENT + name for name in self.replacements]
        for name in names:
            if name not in self.tensors:
                raise ValueError(f"tensors: '{name}' is used but not described")
        shapes = [shape for _, shape in self.operations] + self.restored_shapes
        follows = sum(math.prod(shape) for shape in shapes)
        if follows != self.parameters:
            raise ValueError(f"parameters: {self.parameters}: but the tensors have {follows}")
        return self

    @property
    def operations(self) -> list[tuple[OperationKind, list[int]]]:
        """Kind and shape of the weight of each operation."""
        return [
            (operation.kind, self.tensors[operation.tensor].shape)
            for gap in self.gaps
            for operation in gap.operations
        ]

    @property
    def kinds(self) -> tuple[OperationKind, ...]:
        """The kinds of operations that are inserted, sorted."""
        return tuple(sorted({kind for kind, _ in self.operations}))

    @property
    def restored_shapes(self) -> list[list[int]]:
        """Shapes of the parameters of the layers that stay after all."""
        prefixes = tuple(f"layers.{layer}." for layer in self.restored)
        return [
            self.tensors[_REPLACEMENT + name].shape
            for name in self.replacements
            if name.startswith(prefixes)
        ]


def tensors_beside(manifest_path: Path) -> Path:
    """Return the path of the tensor file that belongs to a manifest.

    Raises:
        LpstepsError: The path does not have the name of a manifest.
    """
    if not manifest_path.name.endswith(MANIFEST_SUFFIX):
        raise LpstepsError(f"{manifest_path}: a manifest is named *{MANIFEST_SUFFIX}")
    stem = manifest_path.name.removesuffix(MANIFEST_SUFFIX)
    return manifest_path.with_name(stem + TENSORS_SUFFIX)


def write_patches(
    tensor_path: Path, manifest_path: Path, patches: PatchSet, *, recovery: str
) -> None:
    """Store ``patches`` as a tensor file and its manifest.

    Weights are stored as float32 (``gaps.{k}.operations.{j}.weight`` and ``replacements.{name}``),
    audit tensors as float64 under their own names. The digests in the manifest are those of the
    stored tensors.

    Args:
        tensor_path: Where the safetensors file goes; ``read_patches`` finds it under the name that
            ``tensors_beside`` gives.
        manifest_path: Where the manifest goes.
        patches: What to store; an empty set is fine.
        recovery: Name of the recovery that built them, for the reader of the manifest.
    """
    tensors: dict[str, npt.NDArray[Any]] = {
        name: np.ascontiguousarray(values, dtype=np.float64)
        for name, values in patches.audit.items()
    }
    gaps = []
    for gap_index, gap in enumerate(patches.gaps):
        operations = []
        for operation_index, operation in enumerate(gap.operations):
            name = f"gaps.{gap_index}.operations.{operation_index}.weight"
            tensors[name] = np.ascontiguousarray(operation.weight, dtype=np.float32)
            operations.append(_StoredOperation(kind=operation.kind, tensor=name))
        gaps.append(_StoredGap(start=gap.start, end=gap.end, operations=operations))
    for name, values in patches.replacements.items():
        tensors[_REPLACEMENT + name] = np.ascontiguousarray(values, dtype=np.float32)
    manifest = PatchManifest(
        recovery=recovery,
        parameters=patches.parameters,
        foldable=patches.foldable,
        gaps=gaps,
        replacements=sorted(patches.replacements),
        restored=list(patches.restored),
        tensors={name: _StoredTensor(**digest) for name, digest in tensor_digests(tensors).items()},
    )
    write_tensors(tensor_path, tensors, {"recovery": recovery})
    write_json(manifest_path, manifest.model_dump(by_alias=True))


def read_patches(manifest_path: Path) -> PatchSet:
    """Read a patch set and verify every tensor against the manifest.

    Args:
        manifest_path: A ``<name>.manifest.json`` with ``<name>.safetensors`` beside it.

    Returns:
        The patch set, weights and replacements as float32.

    Raises:
        LpstepsError: When a file is missing or malformed, when a tensor is absent, unexpected or
            differs from its digest, when an operation names a tensor that does not fit it, or when
            the manifest states another ``parameters`` or ``foldable`` than follows from the rest.
    """
    manifest = validated_result(PatchManifest, manifest_path)
    listed = {name: tensor.model_dump() for name, tensor in manifest.tensors.items()}
    tensors = verified_tensors(tensors_beside(manifest_path), listed, manifest_path)
    try:
        gaps = tuple(
            GapPatch(
                gap.start,
                gap.end,
                tuple(
                    Operation(operation.kind, tensors.pop(operation.tensor))
                    for operation in gap.operations
                ),
            )
            for gap in manifest.gaps
        )
        replacements = {name: tensors.pop(_REPLACEMENT + name) for name in manifest.replacements}
        patches = PatchSet(gaps, tensors, replacements, tuple(manifest.restored))
    except KeyError as error:
        # The manifest describes every tensor that it names, so this one is gone already.
        raise LpstepsError(
            f"{manifest_path}: {error.args[0]}: named twice; delete it to rebuild it"
        ) from error
    except LpstepsError as error:
        raise LpstepsError(f"{manifest_path}: {error}") from error
    if manifest.foldable != patches.foldable:
        raise LpstepsError(
            f"{manifest_path}: foldable: {manifest.foldable}: but the patches give "
            f"{patches.foldable}; delete it to rebuild it"
        )
    return patches
