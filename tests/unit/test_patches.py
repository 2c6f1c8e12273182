"""Patch files: exact round trips, digests of what is stored, and refusal of anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.artifacts import read_json, read_tensors, sha256_bytes, write_json, write_tensors
from lpsteps.errors import LpstepsError
from lpsteps.patches import (
    GapPatch,
    Operation,
    PatchSet,
    read_patches,
    tensors_beside,
    write_patches,
)


@pytest.fixture
def patches() -> PatchSet:
    generator = np.random.default_rng(0)
    return PatchSet(
        gaps=(
            GapPatch(0, 2, (Operation("matrix", generator.normal(size=(6, 6))),)),
            GapPatch(
                4,
                6,
                (
                    Operation("scale", generator.normal(size=6)),
                    # A transposed view: what is stored must not depend on the memory layout.
                    Operation("matrix", generator.normal(size=(6, 6)).T),
                ),
            ),
        ),
        audit={"gaps.0.operations.0.d": generator.normal(size=6)},
        replacements={
            "layers.1.mlp.down_proj.weight": generator.normal(size=(6, 4)),
            "layers.5.norm.weight": generator.normal(size=6),
            "layers.5.mlp.down_proj.weight": generator.normal(size=(4, 6)).T,
        },
        restored=(5,),
    )


@pytest.fixture
def manifest(tmp_path: Path, patches: PatchSet) -> Path:
    path = tmp_path / "patch.manifest.json"
    write_patches(tensors_beside(path), path, patches, recovery="mine")
    return path


def test_round_trip_is_exact_in_float32(manifest: Path, patches: PatchSet) -> None:
    found = read_patches(manifest)
    assert [(gap.start, gap.end) for gap in found.gaps] == [(0, 2), (4, 6)]
    for gap, expected_gap in zip(found.gaps, patches.gaps, strict=True):
        for operation, expected in zip(gap.operations, expected_gap.operations, strict=True):
            assert operation.kind == expected.kind
            assert operation.weight.dtype == np.float32
            np.testing.assert_array_equal(operation.weight, expected.weight.astype(np.float32))
    assert found.replacements.keys() == patches.replacements.keys()
    for name, values in patches.replacements.items():
        assert found.replacements[name].dtype == np.float32
        np.testing.assert_array_equal(found.replacements[name], values.astype(np.float32))
    assert found.restored == (5,)
    assert found.audit.keys() == patches.audit.keys()
    for name, values in patches.audit.items():
        assert found.audit[name].dtype == np.float64
        np.testing.assert_array_equal(found.audit[name], values)


def test_manifest_holds_the_documented_keys(manifest: Path) -> None:
    payload = read_json(manifest)
    assert payload["schema"] == 2
    assert payload["recovery"] == "mine"
    # Operations, and the two parameters of the restored layer; the one of layer 1 is free.
    assert payload["parameters"] == 36 + 6 + 36 + 6 + 24
    assert payload["foldable"] is False
    assert payload["restored"] == [5]
    assert payload["replacements"] == [
        "layers.1.mlp.down_proj.weight",
        "layers.5.mlp.down_proj.weight",
        "layers.5.norm.weight",
    ]
    assert payload["tensors"]["replacements.layers.5.norm.weight"]["shape"] == [6]
    assert payload["gaps"][1] == {
        "start": 4,
        "end": 6,
        "operations": [
            {"kind": "scale", "tensor": "gaps.1.operations.0.weight"},
            {"kind": "matrix", "tensor": "gaps.1.operations.1.weight"},
        ],
    }


def test_digests_are_those_of_the_stored_bytes(manifest: Path) -> None:
    stored = read_tensors(tensors_beside(manifest))
    digests = read_json(manifest)["tensors"]
    assert digests.keys() == stored.keys()
    for name, tensor in stored.items():
        assert digests[name]["sha256"] == sha256_bytes(tensor.tobytes())
        assert digests[name]["dtype"] == str(tensor.dtype)
        assert digests[name]["shape"] == list(tensor.shape)


def test_equal_patches_give_equal_bytes(tmp_path: Path, patches: PatchSet, manifest: Path) -> None:
    again = tmp_path / "again.manifest.json"
    write_patches(tensors_beside(again), again, patches, recovery="mine")
    assert again.read_bytes() == manifest.read_bytes()
    assert tensors_beside(again).read_bytes() == tensors_beside(manifest).read_bytes()


def test_no_patches_at_all_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "patch.manifest.json"
    write_patches(tensors_beside(path), path, PatchSet(), recovery="none")
    found = read_patches(path)
    assert found.gaps == ()
    assert found.parameters == 0
    assert found.foldable


def test_a_changed_tensor_is_found(manifest: Path) -> None:
    tensors = read_tensors(tensors_beside(manifest))
    tensors["gaps.1.operations.0.weight"][3] += 1e-3
    write_tensors(tensors_beside(manifest), tensors)
    with pytest.raises(LpstepsError, match=r"gaps\.1\.operations\.0\.weight: not the tensor"):
        read_patches(manifest)


@pytest.mark.parametrize("kind", ["absent", "unexpected"])
def test_a_different_set_of_tensors_is_found(manifest: Path, kind: str) -> None:
    tensors = read_tensors(tensors_beside(manifest))
    if kind == "absent":
        del tensors["gaps.0.operations.0.d"]
    else:
        tensors["stowaway"] = np.zeros(1)
    write_tensors(tensors_beside(manifest), tensors)
    with pytest.raises(LpstepsError, match=r"stowaway|gaps\.0\.operations\.0\.d"):
        read_patches(manifest)


@pytest.mark.parametrize(
    ("operation", "complaint"),
    [
        ({"kind": "scale", "tensor": "no.such"}, "tensors: 'no.such' is used but not described"),
        ({"kind": "scale", "tensor": "replacements.layers.5.norm.weight"}, "named twice"),
        ({"kind": "scale", "tensor": "gaps.1.operations.1.weight"}, "but the tensors have 138"),
        ({"kind": "matrix", "tensor": "gaps.1.operations.0.weight"}, "matrix of shape"),
        ({"kind": "bend", "tensor": "gaps.1.operations.1.weight"}, "bend"),
    ],
)
def test_a_manifest_that_contradicts_its_tensors_is_refused(
    manifest: Path, operation: dict[str, str], complaint: str
) -> None:
    payload = read_json(manifest)
    payload["gaps"][1]["operations"][0] = operation
    write_json(manifest, payload)
    with pytest.raises(LpstepsError, match=complaint) as error:
        read_patches(manifest)
    assert str(error.value).startswith(str(manifest))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("parameters", 1, "parameters: 1: but the tensors have 108"),
        ("foldable", True, "foldable: True: but the patches give False"),
        ("restored", [2, 5], "restored: 2: replacements must hold"),
        ("replacements", ["layers.9.norm.weight"], "layers.9.norm.weight' is used but not"),
        ("schema", 1, "schema: 1"),
    ],
)
def test_a_manifest_that_contradicts_its_patches_is_refused(
    manifest: Path, key: str, value: object, complaint: str
) -> None:
    write_json(manifest, read_json(manifest) | {key: value})
    with pytest.raises(LpstepsError, match=complaint) as error:
        read_patches(manifest)
    assert str(error.value).startswith(str(manifest))
    assert "\n" not in str(error.value)


def test_missing_tensor_file_is_named(manifest: Path) -> None:
    tensors_beside(manifest).unlink()
    with pytest.raises(LpstepsError, match=r"patch\.safetensors"):
        read_patches(manifest)


def test_a_manifest_has_a_telling_name(tmp_path: Path) -> None:
    with pytest.raises(LpstepsError, match=r"named \*\.manifest\.json"):
        tensors_beside(tmp_path / "patch.json")


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("scalar", (2,)),
        ("scalar", ()),
        ("scale", (3, 3)),
        ("scale", ()),
        ("scale", (0,)),
        ("matrix", (3,)),
        ("matrix", (3, 4)),
        ("rotation", (3, 4)),
        ("shift", (3, 1)),
        ("low_rank", (3, 4)),
        ("low_rank", (3, 4, 2)),
        ("low_rank", (2, 4, 0)),
        ("gated_mlp", (2, 4, 8)),
        ("gated_mlp", (3, 4)),
    ],
)
def test_weights_must_have_the_shape_of_their_kind(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(LpstepsError, match=f"{kind} of shape .*: must be \\[") as error:
        Operation(kind, np.ones(shape))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "shape", "hidden_size"),
    [
        ("scalar", (1,), None),
        ("scale", (4,), 4),
        ("shift", (4,), 4),
        ("matrix", (4, 4), 4),
        ("low_rank", (2, 4, 3), 4),
        ("gated_mlp", (3, 4, 9), 4),
    ],
)
def test_operations_know_their_width_and_count_their_parameters(
    kind: str, shape: tuple[int, ...], hidden_size: int | None
) -> None:
    operation = Operation(kind, np.ones(shape))  # type: ignore[arg-type]
    assert operation.hidden_size == hidden_size
    assert PatchSet((GapPatch(0, 1, (operation, operation)),)).parameters == 2 * np.prod(shape)


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_scalars_must_be_positive(value: float) -> None:
    with pytest.raises(LpstepsError, match=f"scalar: {value:g}: must be positive"):
        Operation("scalar", np.array([value]))


@given(
    size=st.integers(1, 24),
    exponent=st.floats(-3, 3),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_rotations_are_multiples_of_orthogonal_matrices(
    size: int, exponent: float, seed: int, dtype: type[np.floating[Any]]
) -> None:
    generator = np.random.default_rng(seed)
    orthogonal = np.linalg.qr(generator.standard_normal((size, size)))[0]
    rotation = 10**exponent * orthogonal
    Operation("rotation", rotation.astype(dtype))
    if size > 1:
        # One singular value off by delta moves the Gram matrix by 2 delta along one direction.
        # Along a channel that is one entry of its diagonal, against a mean that moves by 1/size.
        for delta, allowed in ((1e-6, True), (1e-4, False)):
            bent = rotation * np.where(np.arange(size) == seed % size, 1 + delta, 1.0)
            if allowed:
                Operation("rotation", bent)
            else:
                with pytest.raises(LpstepsError, match="rotation: deviates by"):
                    Operation("rotation", bent)


@pytest.mark.parametrize("weight", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 1.0, -2.0])])
def test_other_matrices_are_no_rotations(weight: np.ndarray) -> None:
    with pytest.raises(LpstepsError, match="use kind matrix"):
        Operation("rotation", weight)


@pytest.mark.parametrize(
    ("operations", "foldable"),
    [
        ([], True),
        ([Operation("scalar", np.array([2.0]))], True),
        ([Operation("scalar", np.array([2.0])), Operation("rotation", -np.eye(3))], True),
        ([Operation("matrix", np.eye(3))], False),
        ([Operation("scalar", np.array([2.0])), Operation("shift", np.zeros(3))], False),
        ([Operation("scale", np.ones(3))], False),
        ([Operation("low_rank", np.zeros((2, 3, 1)))], False),
        ([Operation("gated_mlp", np.zeros((3, 3, 1)))], False),
    ],
)
def test_scalars_and_rotations_are_foldable(operations: list[Operation], foldable: bool) -> None:
    fine = GapPatch(0, 1, (Operation("scalar", np.array([0.5])),))
    assert PatchSet((fine, GapPatch(2, 3, tuple(operations)))).foldable is foldable


def test_patch_sets_are_checked() -> None:
    weight = {"layers.1.norm.weight": np.ones(3)}
    with pytest.raises(LpstepsError, match=r"gap: \[1, 2\): must lie behind .* ends at 4"):
        PatchSet((GapPatch(3, 4, ()), GapPatch(1, 2, ())))
    with pytest.raises(LpstepsError, match=r"gap: \[1, 2\): must lie behind .* ends at 2"):
        PatchSet((GapPatch(1, 2, ()), GapPatch(1, 2, ())))
    with pytest.raises(LpstepsError, match=r"restored: \[2, 1\]: must ascend"):
        PatchSet(replacements=weight, restored=(2, 1))
    with pytest.raises(LpstepsError, match=r"restored: \[1, 1\]: must ascend"):
        PatchSet(replacements=weight, restored=(1, 1))
    # Layer 11 is not meant by the name of layer 1.
    with pytest.raises(LpstepsError, match="restored: 1: replacements must hold"):
        PatchSet(replacements={"layers.11.norm.weight": np.ones(3)}, restored=(1,))
    with pytest.raises(LpstepsError, match=r"replacements: layers\.1\.norm\.weight: .* finite"):
        PatchSet(replacements={"layers.1.norm.weight": np.array([1.0, np.nan])})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(value: float) -> None:
    with pytest.raises(LpstepsError, match="finite"):
        Operation("scale", np.array([1.0, value]))


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 2), (-1, 2)])
def test_gaps_must_not_be_empty(start: int, end: int) -> None:
    with pytest.raises(LpstepsError, match="start must lie before end"):
        GapPatch(start, end, ())
