"""Files of width prunings: exact round trips, and refusal of anything that was changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpsteps.artifacts import read_json, read_tensors, write_json, write_tensors
from lpsteps.errors import LpstepsError
from lpsteps.patches import tensors_beside
from lpsteps.width_pruning import (
    LayerWidth,
    TensorShapes,
    WidthPruning,
    parameters_removed,
    read_width,
    write_width,
)

LAYERS = {4: LayerWidth((0, 2), (1, 2, 5)), 10: LayerWidth((1,), (0, 70000))}
SHAPES = {
    "layers.4.mlp.up_proj.weight": TensorShapes(dense=[6, 4], pruned=[3, 4]),
    "layers.4.mlp.up_proj.bias": TensorShapes(dense=[6], pruned=[3]),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "width.manifest.json"
    write_width(tensors_beside(path), path, WidthPruning(LAYERS, SHAPES), width="mine", n=2)
    return path


def test_round_trip(manifest: Path) -> None:
    found = read_width(manifest)
    assert (found.layers, found.shapes) == (LAYERS, SHAPES)
    content = read_json(manifest)
    assert (content["width"], content["n"]) == ("mine", 2)
    assert content["parameters_removed"] == parameters_removed(SHAPES) == 15


@pytest.mark.parametrize("kept", [(), (1, 1), (2, 1), (-1, 3)])
def test_what_stays_is_named_once_in_order(kept: tuple[int, ...]) -> None:
    for heads, channels in ((kept, (0,)), ((0,), kept)):
        with pytest.raises(LpstepsError, match="at least one stays, each is named once, ascending"):
            LayerWidth(heads, channels)


def other_head(tensors: dict[str, Any], _: dict[str, Any]) -> None:
    tensors["layers.4.heads"][1] = 1


def no_channels(tensors: dict[str, Any], content: dict[str, Any]) -> None:
    del tensors["layers.4.channels"], content["tensors"]["layers.4.channels"]


def one_more(tensors: dict[str, Any], _: dict[str, Any]) -> None:
    tensors["layers.5.heads"] = np.array([0], dtype=np.int32)


def other_shape(_: dict[str, Any], content: dict[str, Any]) -> None:
    content["shapes"]["layers.4.mlp.up_proj.bias"]["pruned"] = [2]


def other_count(_: dict[str, Any], content: dict[str, Any]) -> None:
    content["parameters_removed"] = 14


def unknown_key(_: dict[str, Any], content: dict[str, Any]) -> None:
    content["widht"] = "mine"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_head, r"width.safetensors: layers.4.heads: not the tensor that .* lists"),
        (no_channels, "tensors: 'layers.4.channels': expected layers.<number>.heads and .channels"),
        (one_more, r"layers.5.heads: not the tensor that .* lists"),
        (other_shape, "parameters_removed: 15: but the shapes give 16"),
        (other_count, "parameters_removed: 14: but the shapes give 15"),
        (unknown_key, "widht: unknown key, did you mean 'width'"),
    ],
)
def test_a_changed_file_is_refused(
    manifest: Path, damage: Callable[[dict[str, Any], dict[str, Any]], None], message: str
) -> None:
    tensors, content = read_tensors(tensors_beside(manifest)), read_json(manifest)
    damage(tensors, content)
    write_tensors(tensors_beside(manifest), tensors)
    write_json(manifest, content)
    with pytest.raises(LpstepsError, match=message):
        read_width(manifest)


def test_a_cut_off_or_missing_file_is_refused(manifest: Path) -> None:
    tensors = tensors_beside(manifest)
    tensors.write_bytes(tensors.read_bytes()[:-3])
    with pytest.raises(LpstepsError, match="not a valid safetensors file"):
        read_width(manifest)
    tensors.unlink()
    with pytest.raises(LpstepsError, match="no such file"):
        read_width(manifest)
