"""The store of the teacher's targets: bytes, damage, and access to single windows."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lpsteps.artifacts import read_json, verify_file_manifest, write_json
from lpsteps.distillation import teacher_store
from lpsteps.distillation.teacher_store import (
    ShardWriter,
    StoreFacts,
    TeacherStore,
    bytes_per_target,
    decoded_targets,
    encoded_targets,
    tokens_digest,
)
from lpsteps.errors import LpstepsError

LOGGER = logging.getLogger("test_teacher_store")
# All 24 bits set, in units of 2**-19 nats.
LEAST = -(2**24 - 1) / 2**19
VOCABULARIES = [128, 1 << 16, (1 << 16) + 1, 262_208, 1 << 20]


def _targets(
    vocabulary: int, top_k: int, windows: int = 2, length: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(vocabulary + top_k)
    shape = (windows, length, top_k)
    log_probabilities = -generator.exponential(6.0, shape).astype(np.float32)
    indices = generator.integers(0, vocabulary, shape)
    # The ends of the range.
    indices[0, 0, 0], indices[-1, -1, -1] = vocabulary - 1, 0
    return log_probabilities, indices


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("top_k", [1, 2, 5, 100])
def test_targets_come_back_to_a_millionth(vocabulary: int, top_k: int) -> None:
    log_probabilities, indices = _targets(vocabulary, top_k)
    tensors = encoded_targets(log_probabilities, indices, vocabulary)
    found, found_indices = decoded_targets(tensors)
    assert (found.dtype, found_indices.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(found_indices, indices)
    np.testing.assert_allclose(found, np.maximum(log_probabilities, LEAST), rtol=0, atol=1e-6)
    stored = sum(values.nbytes for values in tensors.values()) / indices.size
    assert stored == pytest.approx(bytes_per_target(vocabulary), abs=0.5 if top_k % 2 else 0)
    assert ("high_bits" in tensors) == (vocabulary > 65536)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0.0), (1e-7, 0.0), (-31.999, -31.999), (-100.0, -32.0), (-np.inf, -32.0)],
)
def test_the_ends_of_the_range_are_kept_within_it(value: float, expected: float) -> None:
    one = np.full((1, 1, 1), value, np.float32)
    found, _ = decoded_targets(encoded_targets(one, np.zeros((1, 1, 1), np.int64), 8))
    assert found[0, 0, 0] == pytest.approx(expected, abs=2e-6)


def test_a_stored_number_is_the_integer_that_the_format_says() -> None:
    one = np.full((1, 1, 1), -1.5, np.float32)
    tensors = encoded_targets(one, np.full((1, 1, 1), 70_003), 100_000)
    low, middle, high = tensors["log_probabilities"][0, 0, 0].tolist()
    assert low + 256 * middle + 65536 * high == 1.5 * 2**19
    assert tensors["indices"].item() == 70_003 - 65536
    assert tensors["high_bits"].tolist() == [[[1]]]


def test_what_cannot_be_stored_is_named() -> None:
    log_probabilities, indices = _targets(128, 2)
    with pytest.raises(LpstepsError, match=r"vocabulary: 1048577: .* set mode: fused"):
        encoded_targets(log_probabilities, indices, (1 << 20) + 1)
    log_probabilities[0, 0, 0] = np.nan
    with pytest.raises(LpstepsError, match="not a number"):
        encoded_targets(log_probabilities, indices, 128)


# Shards

WINDOWS, LENGTH, TOP_K, HIDDEN = 7, 5, 4, 6
TOKENS = np.random.default_rng(0).integers(0, 128, (WINDOWS, LENGTH))


def _facts(**changes: Any) -> StoreFacts:
    facts = {
        "schema": 1,
        "model_sha256": "m",
        "tokens_sha256": tokens_digest(TOKENS),
        "windows": WINDOWS,
        "length": LENGTH,
        "hidden_size": HIDDEN,
        "top_k": TOP_K,
        "vocabulary": 128,
        "dtype": "bfloat16",
        "branch": 2,
        "hidden": True,
    }
    return StoreFacts.model_validate(facts | changes)


@pytest.fixture(autouse=True)
def three_windows_per_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    window = LENGTH * (TOP_K * 5 + HIDDEN * 2)
    monkeypatch.setattr(teacher_store, "_SHARD_BYTES", 3 * window + 1)


def _content(facts: StoreFacts) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    log_probabilities, indices = _targets(128, TOP_K, WINDOWS, LENGTH)
    hidden = torch.randn((WINDOWS, LENGTH, HIDDEN), generator=torch.Generator().manual_seed(0))
    return log_probabilities, indices, hidden.to(getattr(torch, facts.dtype))


def _write(facts: StoreFacts, writer: ShardWriter, name: str) -> None:
    log_probabilities, indices, hidden = _content(facts)
    rows = slice(facts.shards[name].start, facts.shards[name].stop)
    part = encoded_targets(log_probabilities[rows], indices[rows], facts.vocabulary)
    tensors = {key: torch.from_numpy(values) for key, values in part.items()}
    writer.write(name, tensors | ({"hidden": hidden[rows]} if facts.hidden else {}))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A whole store; the path of its manifest."""
    return _store(tmp_path, _facts())


def _store(folder: Path, facts: StoreFacts) -> Path:
    writer = ShardWriter(folder / "partial", "key", LOGGER)
    for name in facts.shards:
        _write(facts, writer, name)
    (folder / "store").mkdir()
    writer.hand_over(facts, folder / "store")
    return folder / "store" / "manifest.json"


def test_windows_are_spread_over_shards_of_bounded_size() -> None:
    assert list(_facts().shards.values()) == [range(3), range(3, 6), range(6, 7)]
    # A hidden state of float32 leaves room for two windows, none at all for four.
    assert _facts(dtype="float32").windows_per_shard == 2
    assert _facts(hidden=False).windows_per_shard == 4
    assert _facts(length=1000).windows_per_shard == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_windows_are_read_in_any_order(tmp_path: Path, dtype: str) -> None:
    facts = _facts(dtype=dtype)
    opened = TeacherStore(_store(tmp_path, facts))
    log_probabilities, indices, hidden = _content(facts)
    numbers = np.array([6, 0, 4, 5, 0])
    targets, states = opened.read(numbers)
    np.testing.assert_allclose(
        targets.log_probabilities, np.maximum(log_probabilities[numbers], LEAST), rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(targets.indices, indices[numbers])
    assert (targets.log_probabilities.dtype, targets.indices.dtype) == (torch.float32, torch.int64)
    assert states is not None
    assert torch.equal(states, hidden[torch.from_numpy(numbers)])


def test_only_the_shards_of_the_windows_are_opened(store: Path) -> None:
    opened = TeacherStore(store)
    (store.parent / "shard-00000.safetensors").unlink()
    targets, _ = opened.read(np.array([3, 5]))
    np.testing.assert_array_equal(targets.indices, _content(_facts())[1][[3, 5]])
    with pytest.raises(FileNotFoundError):
        opened.read(np.array([2]))


def test_a_store_without_hidden_states_has_none(tmp_path: Path) -> None:
    _, hidden = TeacherStore(_store(tmp_path, _facts(hidden=False))).read(np.array([1]))
    assert hidden is None


def test_the_manifest_speaks_for_every_byte(store: Path) -> None:
    manifest = read_json(store)
    assert manifest["branch"] == 2
    assert set(manifest["files"]) == {f"shard-0000{number}.safetensors" for number in range(3)}
    assert verify_file_manifest(store) == manifest
    # Bytes are a function of the content: nothing in a shard but its tensors.
    with safe_open(store.parent / "shard-00000.safetensors", framework="np") as file:
        assert not file.metadata()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 3}, "manifest.json: top_k: 4: this training needs 3"),
        ({"tokens_sha256": "other"}, "tokens_sha256: .*: this training needs other"),
        ({"branch": 1}, "branch: 2: this training needs 1"),
        ({"dtype": "float32"}, "dtype: bfloat16: this training needs float32"),
        ({"model_sha256": "n"}, "model_sha256: m: this training needs n"),
    ],
)
def test_a_store_for_something_else_is_refused(
    store: Path, change: dict[str, Any], message: str
) -> None:
    opened = TeacherStore(store)
    opened.require(_facts())
    opened.require(_facts(hidden=False))
    with pytest.raises(LpstepsError, match=message):
        opened.require(_facts(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: 2"),
        ({"top_k": "4"}, "top_k: '4'"),
        ({"windows": 10}, "files: 3 of them: 10 windows take 4"),
        ({"files": {}}, "files: 0 of them"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    store: Path, change: dict[str, Any], message: str
) -> None:
    write_json(store, read_json(store) | change)
    with pytest.raises(LpstepsError, match=message):
        TeacherStore(store)


# What an interruption leaves


def _drop_note(writer: ShardWriter, name: str) -> None:
    (writer.folder / name).with_suffix(".json").unlink()


def _drop_shard(writer: ShardWriter, name: str) -> None:
    (writer.folder / name).unlink()


def _cut_shard(writer: ShardWriter, name: str) -> None:
    path = writer.folder / name
    path.write_bytes(path.read_bytes()[:-1])


def _flip_shard(writer: ShardWriter, name: str) -> None:
    path = writer.folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _cut_note(writer: ShardWriter, name: str) -> None:
    note = (writer.folder / name).with_suffix(".json")
    note.write_bytes(note.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [_drop_note, _drop_shard, _cut_shard, _flip_shard, _cut_note])
def test_a_damaged_shard_is_not_finished(
    tmp_path: Path, damage: Callable[[ShardWriter, str], None]
) -> None:
    facts = _facts()
    writer = ShardWriter(tmp_path / "partial", "key", LOGGER)
    first, second, _ = facts.shards
    assert not writer.finished(first)
    _write(facts, writer, first)
    _write(facts, writer, second)
    assert writer.finished(first)
    damage(writer, first)
    assert not writer.finished(first)
    assert writer.finished(second)
    _write(facts, writer, first)
    assert writer.finished(first)


def test_a_shard_of_another_key_is_not_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = _facts()
    first = next(iter(facts.shards))
    _write(facts, ShardWriter(tmp_path / "partial", "key", LOGGER), first)
    assert not ShardWriter(tmp_path / "partial", "other", LOGGER).finished(first)
    assert "shard-00000.safetensors: of another store; made again" in caplog.text


def test_a_shard_that_is_written_again_is_unfinished_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of the shard before never speaks for the one after it."""
    facts = _facts()
    writer = ShardWriter(tmp_path / "partial", "key", LOGGER)
    first = next(iter(facts.shards))
    _write(facts, writer, first)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher_store, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        _write(facts, writer, first)
    assert not writer.finished(first)


def test_shards_stay_until_the_step_has_succeeded(tmp_path: Path) -> None:
    manifest = _store(tmp_path, _facts())
    partial = tmp_path / "partial"
    for name in _facts().shards:
        assert (partial / name).samefile(manifest.parent / name)
    ShardWriter(partial, "key", LOGGER).remove()
    verify_file_manifest(manifest)


def test_without_hard_links_shards_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    verify_file_manifest(_store(tmp_path, _facts()))
    assert not list((tmp_path / "partial").glob("*.safetensors"))


def test_header_is_all_that_a_shard_holds_besides(store: Path) -> None:
    path = store.parent / "shard-00000.safetensors"
    (header,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert path.stat().st_size == 8 + header + 3 * LENGTH * (TOP_K * 5 + HIDDEN * 2)
