"""Patch files: exact round trips, digests of what is stored, and refusal of anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
    assert found.audit.keys() == patches.audit.keys()
    for name, values in patches.audit.items():
        assert found.audit[name].dtype == np.float64
        np.testing.assert_array_equal(found.audit[name], values)


def test_manifest_holds_the_documented_keys(manifest: Path) -> None:
    payload = read_json(manifest)
    assert payload["schema"] == 1
    assert payload["recovery"] == "mine"
    assert payload["parameters"] == 36 + 6 + 36
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
        ({"kind": "scale", "tensor": "no.such"}, "no.such: no such tensor"),
        ({"kind": "scale", "tensor": "gaps.1.operations.1.weight"}, "scale of shape"),
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


def test_missing_tensor_file_is_named(manifest: Path) -> None:
    tensors_beside(manifest).unlink()
    with pytest.raises(LpstepsError, match=r"patch\.safetensors"):
        read_patches(manifest)


def test_a_manifest_has_a_telling_name(tmp_path: Path) -> None:
    with pytest.raises(LpstepsError, match=r"named \*\.manifest\.json"):
        tensors_beside(tmp_path / "patch.json")


@pytest.mark.parametrize(
    ("kind", "shape"), [("scale", (3, 3)), ("matrix", (3,)), ("matrix", (3, 4)), ("scale", ())]
)
def test_weights_must_have_the_shape_of_their_kind(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(LpstepsError, match="of shape"):
        Operation(kind, np.ones(shape))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(value: float) -> None:
    with pytest.raises(LpstepsError, match="finite"):
        Operation("scale", np.array([1.0, value]))


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 2), (-1, 2)])
def test_gaps_must_not_be_empty(start: int, end: int) -> None:
    with pytest.raises(LpstepsError, match="start must lie before end"):
        GapPatch(start, end, ())
