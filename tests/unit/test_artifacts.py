"""Equal content gives equal bytes, exact values come back, damage is named."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps import artifacts
from lpsteps.errors import LpstepsError, first_line

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_is_exact_and_independent_of_key_order(payload):
    import json

    text = artifacts.canonical_json(payload)
    assert json.loads(text) == payload
    assert artifacts.canonical_json(dict(reversed(payload.items()))) == text


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        artifacts.canonical_json({"x": float("nan")})


def test_parquet_bytes_are_stable_and_damage_is_named(tmp_path):
    table = pa.table({"a": [1, 2, 3], "b": [[0.1], [0.2, 0.3], []]})
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    artifacts.write_parquet(first, table)
    artifacts.write_parquet(second, pa.table(table.to_pydict()))
    assert first.read_bytes() == second.read_bytes()
    assert artifacts.read_parquet(first).equals(table)
    names = table.column_names[::-1]
    assert artifacts.read_parquet(first, names).equals(table.select(names))
    with pytest.raises(LpstepsError, match=r"1\.parquet: no column 'none'"):
        artifacts.read_parquet(first, ["none"])
    first.write_bytes(first.read_bytes()[:-20])
    with pytest.raises(LpstepsError, match=r"1\.parquet: not a valid Parquet file"):
        artifacts.read_parquet(first)
    with pytest.raises(LpstepsError, match=r"none\.parquet"):
        artifacts.read_parquet(tmp_path / "none.parquet")


def test_tensors_keep_values_and_order_does_not_matter(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3)}
    artifacts.write_tensors(tmp_path / "1", tensors, {"k": "v"})
    artifacts.write_tensors(tmp_path / "2", dict(reversed(tensors.items())), {"k": "v"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    read = artifacts.read_tensors(tmp_path / "1")
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
    (tmp_path / "1").write_bytes(b"nonsense")
    with pytest.raises(LpstepsError, match="not a valid safetensors file"):
        artifacts.read_tensors(tmp_path / "1")


def test_transposed_tensors_are_stored_as_they_look(tmp_path):
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3).T
    artifacts.write_tensors(tmp_path / "t", {"x": tensor})
    assert np.array_equal(artifacts.read_tensors(tmp_path / "t")["x"], tensor)
    digests = artifacts.tensor_digests({"x": tensor})
    assert digests == artifacts.tensor_digests({"x": np.ascontiguousarray(tensor)})
    changed = tensor.copy()
    changed[0, 0] += 1
    assert artifacts.tensor_digests({"x": changed}) != digests


def test_tensors_are_verified_against_their_digests(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32), "a": np.ones(3)}
    path, manifest = tmp_path / "t", tmp_path / "t.json"
    artifacts.write_tensors(path, tensors)
    listed = artifacts.tensor_digests(tensors)
    read = artifacts.verified_tensors(path, listed, manifest)
    assert {name: values.tolist() for name, values in read.items()} == {
        "a": [1, 1, 1],
        "b": [0, 1, 2, 3, 4, 5],
    }
    changed = artifacts.tensor_digests({**tensors, "b": tensors["b"] + 1})
    for wrong, name in ((changed, "b"), ({"b": listed["b"]}, "a"), ({**listed, "c": {}}, "c")):
        with pytest.raises(LpstepsError, match=rf"t: {name}: not the tensor that .*t\.json lists"):
            artifacts.verified_tensors(path, wrong, manifest)


def test_file_manifest_finds_a_changed_and_a_missing_file(tmp_path):
    (tmp_path / "weights").write_bytes(b"abc")
    manifest = tmp_path / "manifest.json"
    artifacts.write_json(manifest, artifacts.file_manifest(tmp_path, ["weights"]))
    assert artifacts.verify_file_manifest(manifest)["files"]["weights"]["bytes"] == 3
    (tmp_path / "weights").write_bytes(b"abd")
    with pytest.raises(LpstepsError, match=r"weights: sha256 is .* the file was changed"):
        artifacts.verify_file_manifest(manifest)
    (tmp_path / "weights").unlink()
    with pytest.raises(LpstepsError, match="weights: missing"):
        artifacts.verify_file_manifest(manifest)


def test_an_exception_without_a_message_is_named():
    """Some libraries raise them; their first line is none."""
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("a\nb")) == "a"
