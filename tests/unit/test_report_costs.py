from __future__ import annotations

from typing import Any

import pytest
from report_example import patch_manifest

from lpsteps.errors import LpstepsError
from lpsteps.patches import OperationKind
from lpsteps.report.costs import operation_flops
from lpsteps.report.evidence import PatchFacts
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


def facts(**changes: Any) -> PatchFacts:
    return validated(PatchFacts, patch_manifest("linearpatch", C) | changes, "manifest")


def test_a_chain_adds_up() -> None:
    chain = [{"kind": "matrix", "tensor": "w"}, {"kind": "shift", "tensor": "b"}]
    tensors = {"w": {"shape": [C, C]}, "b": {"shape": [C]}, "audit": {"shape": [9, 9]}}
    patch = facts(
        gaps=[{"start": 1, "end": 2, "operations": chain}] * 2,
        tensors=tensors,
        parameters=2 * (C * C + C),
    )
    assert patch.flops(C) == 2 * (2 * C * C + C)


def test_a_layer_that_stays_costs_its_projections_and_a_replacement_costs_nothing() -> None:
    names = ["layers.3.mlp.weight", "layers.3.norm.weight", "layers.31.mlp.weight"]
    shapes = [[C, WIDE], [C], [C, WIDE]]
    patch = facts(
        gaps=[],
        replacements=names,
        restored=[3],
        tensors={
            f"replacements.{name}": {"shape": shape}
            for name, shape in zip(names, shapes, strict=True)
        },
        parameters=C * WIDE + C,
    )
    assert patch.flops(C) == 2 * C * WIDE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": 24}, "parameters: 24: but the tensors have 25"),
        ({"schema": 1}, "schema"),
        ({"foldable": None}, "foldable"),
        ({"tensors": {}}, "'w' is used but not described"),
        ({"gaps": [{"operations": [{"kind": "magic", "tensor": "w"}]}]}, "magic"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    assert facts().parameters == C * C
    with pytest.raises(LpstepsError, match=message):
        facts(**changes)
