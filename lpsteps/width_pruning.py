"""Width prunings in and out of files: which heads and channels stay in which layers.

A pruned tensor is a slice of the dense one, so the numbers of the heads and channels that stay say
everything. They are stored like patches, as two files side by side: ``width.safetensors`` with the
numbers, and ``width.manifest.json`` with their digests and the shapes of the tensors that are cut.
The layers of a pruned model may differ in shape, which no config of a stock architecture expresses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.artifacts import (
    tensor_digests,
    verified_tensors,
    write_json,
    write_tensors,
)
from lpsteps.errors import LpstepsError
from lpsteps.patches import tensors_beside
from lpsteps.validation import validated_result


@dataclass(frozen=True)
class LayerWidth:
    """What stays of one decoder layer.

    Attributes:
        heads: Key-value heads that stay, ascending. The query heads that share one stay with it.
        channels: Channels between the MLP's matrices that stay, ascending.

    Raises:
        LpstepsError: A list is empty, does not ascend, or starts below 0.
    """

    heads: tuple[int, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        for what, kept in (("heads", self.heads), ("channels", self.channels)):
            if not kept or kept[0] < 0 or any(after <= before for before, after in pairwise(kept)):
                raise LpstepsError(
                    f"{what}: {list(kept[:9])}: at least one stays, each is named once, ascending"
                )


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class TensorShapes(_Strict):
    """The shape of a tensor in the dense and in the pruned model."""

    dense: list[int]
    pruned: list[int]


@dataclass(frozen=True, eq=False)
class WidthPruning:
    """Which heads and channels of a model stay.

    Attributes:
        layers: What stays of each pruned layer, by its number; the other layers stay whole.
        shapes: The shapes of every tensor that is cut, under its name relative to the backbone (for
            example ``layers.13.mlp.down_proj.weight``).
    """

    layers: Mapping[int, LayerWidth]
    shapes: Mapping[str, TensorShapes]


def parameters_removed(shapes: Mapping[str, TensorShapes]) -> int:
    """Return how many parameters fewer the pruned tensors have."""
    return sum(math.prod(each.dense) - math.prod(each.pruned) for each in shapes.values())


class WidthManifest(_Strict):
    """The contents of ``width.manifest.json``.

    Attributes:
        width: Name of the width pruning.
        n: Number of whole layers whose parameters were to go.
        parameters_removed: Parameters that did go.
        shapes: As in :class:`WidthPruning`.
        tensors: Digests of the stored numbers.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    width: str
    n: int
    parameters_removed: int
    shapes: dict[str, TensorShapes]
    tensors: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _check_parameters(self) -> WidthManifest:
        follows = parameters_removed(self.shapes)
        if follows != self.parameters_removed:
            raise ValueError(
                f"parameters_removed: {self.parameters_removed}: but the shapes give {follows}"
            )
        return self


def write_width(
    tensor_path: Path, manifest_path: Path, pruning: WidthPruning, *, width: str, n: int
) -> None:
    """Store a width pruning as a tensor file and its manifest.

    The numbers are stored as int32, ``layers.{i}.heads`` and ``layers.{i}.channels``.

    Args:
        tensor_path: Where the safetensors file goes; :func:`read_width` finds it under the name
            that ``tensors_beside`` gives.
        manifest_path: Where the manifest goes.
        pruning: What to store.
        width: Name of the width pruning, for the reader of the manifest.
        n: Number of whole layers whose parameters were to go.
    """
    tensors = {
        f"layers.{layer}.{what}": np.array(kept, dtype=np.int32)
        for layer, widths in pruning.layers.items()
        for what, kept in (("heads", widths.heads), ("channels", widths.channels))
    }
    manifest = WidthManifest(
        width=width,
        n=n,
        parameters_removed=parameters_removed(pruning.shapes),
        shapes=dict(pruning.shapes),
        tensors=tensor_digests(tensors),
    )
    write_tensors(tensor_path, tensors, {"width": width})
    write_json(manifest_path, manifest.model_dump(by_alias=True))


def read_width(manifest_path: Path) -> WidthPruning:
    """Read a width pruning and verify its numbers against the manifest.

    Args:
        manifest_path: A ``<name>.manifest.json`` with ``<name>.safetensors`` beside it.

    Raises:
        LpstepsError: A file is missing or malformed, a tensor is absent, unexpected or differs from
            its digest, or the manifest contradicts itself.
    """
    manifest = validated_result(WidthManifest, manifest_path)
    tensors = verified_tensors(tensors_beside(manifest_path), manifest.tensors, manifest_path)
    kept = {name: tuple(int(number) for number in values) for name, values in tensors.items()}
    try:
        numbers = sorted({int(name.split(".")[1]) for name in kept})
        layers = {
            layer: LayerWidth(kept[f"layers.{layer}.heads"], kept[f"layers.{layer}.channels"])
            for layer in numbers
        }
    except (KeyError, ValueError, IndexError) as error:
        raise LpstepsError(
            f"{manifest_path}: tensors: {error}: expected layers.<number>.heads and .channels"
        ) from error
    except LpstepsError as error:
        raise LpstepsError(f"{manifest_path}: {error}") from error
    return WidthPruning(layers, manifest.shapes)
