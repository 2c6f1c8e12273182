"""Patches in and out of files, independent of any deep-learning framework.

A patch acts on the residual stream where it enters the first layer after a gap (or the final norm).
It is a chain of linear operations on rows: a *scale* multiplies channel by channel, a *matrix* maps
``x`` to ``x @ weight``. Recovery methods build patches, the surgery step inserts them.

A patch set is stored as two files side by side: ``<name>.safetensors`` with the tensors, and
``<name>.manifest.json`` with their digests and the list of gaps. The manifest is small, so it is
the one that a workflow watches; the digests tie it to the exact bytes of the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import read_json, read_tensors, tensor_digests, write_json, write_tensors
from lpsteps.errors import LpstepsError
from lpsteps.validation import validated

MANIFEST_SUFFIX = ".manifest.json"
TENSORS_SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class Operation:
    """One linear operation on rows ``x`` of the residual stream.

    Attributes:
        kind: "scale" for ``x * weight`` with weight ``[hidden_size]``, "matrix" for ``x @ weight``
            with weight ``[hidden_size, hidden_size]``.
        weight: Floating-point weights; float64 while they are built, float32 once stored.

    Raises:
        LpstepsError: When the shape does not belong to the kind, or a weight is not finite.
    """

    kind: Literal["scale", "matrix"]
    weight: npt.NDArray[Any]

    def __post_init__(self) -> None:
        shape = self.weight.shape
        dimensions = 1 if self.kind == "scale" else 2
        if len(shape) != dimensions or len(set(shape)) != 1:
            raise LpstepsError(
                f"operation: {self.kind} of shape {list(shape)}: allowed are "
                "scale [hidden_size] and matrix [hidden_size, hidden_size]"
            )
        if not np.isfinite(self.weight).all():
            raise LpstepsError(f"operation: {self.kind}: every weight must be finite")


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
        gaps: One patch per gap, ascending; empty when the model is left as pruned.
        audit: Float64 tensors that explain the weights (for example the scales behind a matrix).
            They are stored beside the weights and never used by the model.
    """

    gaps: tuple[GapPatch, ...] = ()
    audit: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters that the patches add to the model."""
        return sum(operation.weight.size for gap in self.gaps for operation in gap.operations)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class _StoredOperation(_Strict):
    kind: Literal["scale", "matrix"]
    tensor: str


class _StoredGap(_Strict):
    start: int
    end: int
    operations: list[_StoredOperation]


class _Manifest(_Strict):
    """The contents of a patch manifest."""

    version: Literal[1] = Field(default=1, alias="schema")
    recovery: str
    parameters: int
    gaps: list[_StoredGap]
    tensors: dict[str, dict[str, Any]]


def tensors_beside(manifest_path: Path) -> Path:
    """Return the path of the tensor file that belongs to a manifest.

    Raises:
        LpstepsError: The path does not have the name of a manifest.
    """
    if not manifest_path.name.endswith(MANIFEST_SUFFIX):
        raise LpstepsError(f"{manifest_path}: a patch manifest is named *{MANIFEST_SUFFIX}")
    stem = manifest_path.name.removesuffix(MANIFEST_SUFFIX)
    return manifest_path.with_name(stem + TENSORS_SUFFIX)


def write_patches(
    tensor_path: Path, manifest_path: Path, patches: PatchSet, *, recovery: str
) -> None:
    """Store ``patches`` as a tensor file and its manifest.

    Weights are stored as float32 (``gaps.{k}.operations.{j}.weight``), audit tensors as float64
    under their own names. The digests in the manifest are those of the stored tensors.

    Args:
        tensor_path: Where the safetensors file goes; ``read_patches`` finds it under the name that
            ``tensors_beside`` gives.
        manifest_path: Where the manifest goes.
        patches: What to store; no gaps at all is fine.
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
    manifest = _Manifest(
        recovery=recovery,
        parameters=patches.parameters,
        gaps=gaps,
        tensors=tensor_digests(tensors),
    )
    write_tensors(tensor_path, tensors, {"recovery": recovery})
    write_json(manifest_path, manifest.model_dump(by_alias=True))


def read_patches(manifest_path: Path) -> PatchSet:
    """Read a patch set and verify every tensor against the manifest.

    Args:
        manifest_path: A ``<name>.manifest.json`` with ``<name>.safetensors`` beside it.

    Returns:
        The patch set, weights as float32.

    Raises:
        LpstepsError: When a file is missing or malformed, when a tensor is absent, unexpected or
            differs from its digest, or when an operation names a tensor that does not fit it.
    """
    manifest = validated(_Manifest, read_json(manifest_path), str(manifest_path))
    tensor_path = tensors_beside(manifest_path)
    tensors = read_tensors(tensor_path)
    digests = tensor_digests(tensors)
    for name in sorted(manifest.tensors.keys() | digests.keys()):
        if digests.get(name) != manifest.tensors.get(name):
            raise LpstepsError(f"{tensor_path}: {name}: not the tensor that {manifest_path} lists")
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
    except KeyError as error:
        raise LpstepsError(f"{manifest_path}: {error.args[0]}: no such tensor") from error
    except LpstepsError as error:
        raise LpstepsError(f"{manifest_path}: {error}") from error
    return PatchSet(gaps, audit=tensors)
