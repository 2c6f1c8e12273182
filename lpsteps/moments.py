"""Moments of the residual stream around a gap: all that a least-squares repair needs to know.

For every token the rows are A, the stream in front of the gap (what layer ``start`` reads), and B,
the stream behind it (what layer ``end``, or the final norm, reads). The squared error of any affine
map of A, and every map that minimises it, follow from the sums of products that are kept here.
:mod:`lpsteps.models.gap_moments` measures them.

They are stored like patches, as two files side by side: ``<kind>.safetensors`` with float64 tensors
and ``<kind>.manifest.json`` with their digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import tensor_digests, verified_tensors, write_json, write_tensors
from lpsteps.errors import LpstepsError
from lpsteps.validation import validated_result

Array = npt.NDArray[np.float64]

MomentsKind = Literal["stream", "weighted-stream", "branch"]
MOMENTS_KINDS: Final[tuple[MomentsKind, ...]] = get_args(MomentsKind)

# Attributes that are numbers; all others are arrays.
_NUMBERS: Final = ("weight", "target_square")


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over tokens t, each with a weight w_t, of products of the rows A_t and B_t.

    Attributes:
        weight: Sum of w_t; the number of tokens when every weight is 1.
        source_source: Sum of ``w_t A_t' A_t``, ``[hidden_size, hidden_size]``.
        source_target: Sum of ``w_t A_t' B_t``, ``[hidden_size, hidden_size]``.
        target_square: Sum of ``w_t |B_t|^2``.
        source_sum: Sum of ``w_t A_t``, ``[hidden_size]``.
        target_sum: Sum of ``w_t B_t``, ``[hidden_size]``.
    """

    weight: float
    source_source: Array
    source_target: Array
    target_square: float
    source_sum: Array
    target_sum: Array

    def __add__(self, other: Self) -> Self:
        """Return the moments of the rows of both."""
        return type(self)(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )

    def error(self, matrix: Array, shift: Array | None = None) -> float:
        """Return ``sum of w_t |A_t @ matrix + shift - B_t|^2``; rounding never makes it negative.

        Args:
            matrix: ``[hidden_size, hidden_size]``.
            shift: ``[hidden_size]``; None for zero.
        """
        fitted = np.vdot(matrix, self.source_source @ matrix - 2.0 * self.source_target)
        error = self.target_square + float(fitted)
        if shift is not None:
            linear = 2.0 * (self.source_sum @ matrix - self.target_sum) + self.weight * shift
            error += float(linear @ shift)
        return max(0.0, error)


@dataclass(frozen=True, eq=False)
class BranchMoments(Moments):
    """Moments that also tell the part m of A apart that the MLP in front of the gap has added.

    A repair of that MLP's output projection changes m and leaves ``A - m`` as it is.

    Attributes:
        branch_branch: Sum of ``w_t m_t' m_t``, ``[hidden_size, hidden_size]``.
        branch_source: Sum of ``w_t m_t' A_t``, ``[hidden_size, hidden_size]``.
        branch_target: Sum of ``w_t m_t' B_t``, ``[hidden_size, hidden_size]``.
    """

    branch_branch: Array
    branch_source: Array
    branch_target: Array


@dataclass(frozen=True, eq=False)
class GapMoments:
    """The moments of one gap, on two disjoint parts of the calibration text.

    Attributes:
        start: First layer of the gap.
        end: Layer after the last one; the number of layers stands for the final norm.
        fit: On the text that repairs are fitted to.
        heldout: On the rest, the last eighth of the windows, which hyperparameters are chosen on.
    """

    start: int
    end: int
    fit: Moments
    heldout: Moments


@dataclass(frozen=True, eq=False)
class BranchGapMoments(GapMoments):
    """The moments of one gap, with the MLP output in front of it told apart."""

    fit: BranchMoments
    heldout: BranchMoments


def gap_of(start: int, end: int, fit: Moments, heldout: Moments) -> GapMoments:
    """Return the moments of a gap, as :class:`BranchGapMoments` when both parts have a branch."""
    if isinstance(fit, BranchMoments) and isinstance(heldout, BranchMoments):
        return BranchGapMoments(start, end, fit, heldout)
    return GapMoments(start, end, fit, heldout)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class _StoredGap(_Strict):
    start: int
    end: int


class _Manifest(_Strict):
    """The contents of a manifest of moments."""

    version: Literal[1] = Field(default=1, alias="schema")
    kind: MomentsKind
    gaps: list[_StoredGap]
    tensors: dict[str, dict[str, Any]]


def moments_tensors(manifest_path: Path, kind: MomentsKind) -> Path:
    """Return the path of the tensor file that belongs to a manifest."""
    return manifest_path.with_name(f"{kind}.safetensors")


def write_moments(
    tensor_path: Path, manifest_path: Path, moments: Sequence[GapMoments], *, kind: MomentsKind
) -> None:
    """Store moments as a tensor file and its manifest.

    The tensors are named ``gaps.{k}.fit.{attribute}`` and ``gaps.{k}.heldout.{attribute}``, all
    float64; numbers have the shape ``[1]``.

    Args:
        tensor_path: Where the safetensors file goes; ``read_moments`` finds it under the name that
            ``moments_tensors`` gives.
        manifest_path: Where the manifest goes.
        moments: Moments of each gap of a plan, ascending.
        kind: What they are the moments of.
    """
    tensors = {
        f"{prefix}.{field.name}": np.atleast_1d(getattr(part, field.name))
        for index, gap in enumerate(moments)
        for prefix, part in (
            (f"gaps.{index}.fit", gap.fit),
            (f"gaps.{index}.heldout", gap.heldout),
        )
        for field in fields(part)
    }
    manifest = _Manifest(
        kind=kind,
        gaps=[_StoredGap(start=gap.start, end=gap.end) for gap in moments],
        tensors=tensor_digests(tensors),
    )
    write_tensors(tensor_path, tensors, {"kind": kind})
    write_json(manifest_path, manifest.model_dump(by_alias=True))


def read_moments(manifest_path: Path, kind: MomentsKind) -> list[GapMoments]:
    """Read moments and verify every tensor against the manifest.

    Args:
        manifest_path: A ``<kind>.manifest.json`` with ``<kind>.safetensors`` beside it.
        kind: What they must be the moments of.

    Returns:
        One item per gap, ascending; :class:`BranchGapMoments` for the kind ``branch``.

    Raises:
        LpstepsError: When a file is missing or malformed, holds another kind, or when a tensor is
            absent, unexpected or differs from its digest.
    """
    manifest = validated_result(_Manifest, manifest_path)
    if manifest.kind != kind:
        raise LpstepsError(f"{manifest_path}: kind: {manifest.kind}: must be {kind}")
    tensor_path = moments_tensors(manifest_path, kind)
    tensors = verified_tensors(tensor_path, manifest.tensors, manifest_path)
    try:
        parts = [
            (
                _part(tensors, f"gaps.{index}.fit", kind),
                _part(tensors, f"gaps.{index}.heldout", kind),
            )
            for index in range(len(manifest.gaps))
        ]
    except KeyError as error:
        raise LpstepsError(f"{manifest_path}: {error.args[0]}: no such tensor") from error
    return [
        gap_of(gap.start, gap.end, *both) for gap, both in zip(manifest.gaps, parts, strict=True)
    ]


def _part(tensors: Mapping[str, npt.NDArray[Any]], prefix: str, kind: MomentsKind) -> Moments:
    part = BranchMoments if kind == "branch" else Moments
    values = {field.name: tensors[f"{prefix}.{field.name}"] for field in fields(part)}
    return part(**values | {name: values[name].item() for name in _NUMBERS})
