from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from report_example import ROOT, patch_manifest

from lpsteps.distillation.teacher_store import bytes_per_target, encoded_targets
from lpsteps.errors import LpstepsError
from lpsteps.overheads.costs import operation_flops, patch_flops, stored_target_bytes
from lpsteps.patches import OperationKind, PatchManifest
from lpsteps.report.definitions import load_table
from lpsteps.validation import validated

C, RANK, WIDE = 5, 2, 7


@pytest.mark.parametrize(
    ("kind", "shape", "flops"),
    [
        ("scalar", [1], C),
        ("scale", [C], C),
        ("shift", [C], C),
        ("matrix", [C, C], 2 * C**2),
        ("rotation", [C, C], 2 * C**2),
        ("low_rank", [2, C, RANK], 2 * C * RANK + 2 * RANK * C),
        ("gated_mlp", [3, C, WIDE], 3 * 2 * C * WIDE),
    ],
)
def test_operations_of_each_kind(kind: OperationKind, shape: list[int], flops: int) -> None:
    assert operation_flops(kind, shape, C) == flops


@pytest.mark.parametrize("vocabulary", [2**16, 2**16 + 1])
@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_stored_targets_take_what_the_store_writes(vocabulary: int, top_k: int) -> None:
    windows, length = 2, 7
    shape = (windows, length, top_k)
    tensors = encoded_targets(np.zeros(shape, np.float32), np.zeros(shape, np.int64), vocabulary)
    written = sum(array.nbytes for array in tensors.values())
    assert (
        stored_target_bytes(windows * length, top_k, vocabulary) == written <= 6 * math.prod(shape)
    )


def test_captions_say_what_an_outcome_takes() -> None:
    sizes = [f"{bytes_per_target(vocabulary):g}" for vocabulary in (2**16, 2**16 + 1)]
    for table in ("table11", "table12"):
        assert f"{' or '.join(sizes)} here" in load_table(table, ROOT / "reports/tables").caption


def manifest(**changes: Any) -> PatchManifest:
    return validated(PatchManifest, patch_manifest("linearpatch", C) | changes, "manifest")


def tensor(*shape: int) -> dict[str, Any]:
    return {"sha256": "0" * 64, "dtype": "float32", "shape": list(shape)}


def test_a_chain_adds_up() -> None:
    chain = [{"kind": "matrix", "tensor": "w"}, {"kind": "shift", "tensor": "b"}]
    patch = manifest(
        gaps=[{"start": 1, "end": 2, "operations": chain}] * 2,
        tensors={"w": tensor(C, C), "b": tensor(C), "audit": tensor(9, 9)},
        parameters=2 * (C * C + C),
    )
    assert patch.kinds == ("matrix", "shift")
    assert patch_flops(patch, C) == 2 * (2 * C * C + C)


def test_a_layer_that_stays_costs_its_projections_and_a_replacement_costs_nothing() -> None:
    names = ["layers.3.mlp.weight", "layers.3.norm.weight", "layers.31.mlp.weight"]
    shapes = [(C, WIDE), (C,), (C, WIDE)]
    patch = manifest(
        gaps=[],
        replacements=names,
        restored=[3],
        tensors={
            f"replacements.{name}": tensor(*shape)
            for name, shape in zip(names, shapes, strict=True)
        },
        parameters=C * WIDE + C,
    )
    assert patch_flops(patch, C) == 2 * C * WIDE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": 24}, "parameters: 24: but the tensors have 25"),
        ({"schema": 1}, "schema"),
        ({"foldable": None}, "foldable"),
        ({"tensors": {}}, "'w' is used but not described"),
        (
            {"gaps": [{"start": 1, "end": 2, "operations": [{"kind": "magic", "tensor": "w"}]}]},
            "magic",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    assert manifest().parameters == C * C
    with pytest.raises(LpstepsError, match=message):
        manifest(**changes)
