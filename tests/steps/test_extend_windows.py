"""The extend_windows step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import train_tokenizer

from lpsteps.artifacts import file_manifest, read_parquet, write_json, write_parquet
from lpsteps.data.window_file import read_windows
from lpsteps.provenance import read_record
from lpsteps.steps.extend_windows import main, spread

CORPUS = np.random.default_rng(0).integers(3, 128, (6, 10))


@pytest.fixture
def inputs(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    token_ids = pa.array(CORPUS.tolist(), pa.list_(pa.int32()))
    write_parquet(tmp_path / "windows.parquet", pa.table({"token_ids": token_ids}))
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    return [
        f"--model={tiny_model_folder('llama')}",
        f"--windows={tmp_path / 'windows.parquet'}",
        f"--compute={tmp_path / 'compute.json'}",
    ]


def run(inputs: list[str], extended: Path, **spec: Any) -> int:
    spec = {"windows": 4, "generated": 6, "seed": 1} | spec
    return main([*inputs, f"--extended={extended}", f"--spec={json.dumps(spec)}"])


def test_both_kinds_of_text_are_mixed(tmp_path: Path, inputs: list[str]) -> None:
    extended = tmp_path / "extended.parquet"
    assert run(inputs, extended) == 0
    kinds = [name for (name,) in read_parquet(extended)["documents"].to_pylist()]
    windows = read_windows(extended)
    assert windows.shape == (10, 10)
    from_corpus = np.array([kind == "corpus" for kind in kinds])
    np.testing.assert_array_equal(windows[from_corpus], CORPUS[:4])
    assert kinds.count("generated") == 6
    assert kinds[:5].count("generated") == 3
    own = windows[~from_corpus]
    assert len({tuple(row) for row in own}) == 6
    assert len(set(own[:, 0])) > 1
    assert read_record(extended)["notes"]["seed"] == 1


def save_tokenizer(inputs: list[str], bos_token: str | None) -> int:
    """Put a tokenizer into the folder of the model; return the id of the token `<s>`."""
    manifest = Path(inputs[0].partition("=")[2])
    tokenizer = train_tokenizer()
    bos = int(tokenizer.bos_token_id)
    tokenizer.bos_token = bos_token
    tokenizer.save_pretrained(manifest.parent)
    names = [path.name for path in manifest.parent.iterdir() if path != manifest]
    write_json(manifest, file_manifest(manifest.parent, names))
    return bos


def test_windows_of_the_models_own_begin_with_bos(tmp_path: Path, inputs: list[str]) -> None:
    bos = save_tokenizer(inputs, "<s>")
    corpus = np.insert(CORPUS, 0, bos, axis=1)
    token_ids = pa.array(corpus.tolist(), pa.list_(pa.int32()))
    write_parquet(tmp_path / "windows.parquet", pa.table({"token_ids": token_ids}))
    plain, extended = tmp_path / "plain.parquet", tmp_path / "extended.parquet"
    assert run(inputs, plain) == run(inputs, extended, bos_in_windows=True) == 0
    table, windows = read_parquet(extended), read_windows(extended)
    assert windows.shape == (10, 11)
    assert set(windows[:, 0]) == {bos}
    own = np.array([name == "generated" for (name,) in table["documents"].to_pylist()])
    np.testing.assert_array_equal(windows[~own], corpus[:4])
    # The random token that comes first elsewhere comes behind it.
    np.testing.assert_array_equal(windows[own][:, 1], read_windows(plain)[own][:, 0])
    assert table["offsets"].to_pylist() == [[1]] * 10
    assert read_parquet(plain)["offsets"].to_pylist() == [[0]] * 10
    assert table.schema.metadata[b"bos_in_windows"] == b"true"
    assert b"bos_in_windows" not in read_parquet(plain).schema.metadata


def test_bos_in_windows_needs_a_tokenizer_that_has_one(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_tokenizer(inputs, None)
    extended = tmp_path / "extended.parquet"
    assert run(inputs, extended, bos_in_windows=True) == 1
    assert capsys.readouterr().err == (
        "error: extend_windows: bos_in_windows: true: the tokenizer of this model has no BOS "
        "token; set it to false\n"
    )
    assert not extended.exists()


def test_the_seed_decides_over_the_bytes(tmp_path: Path, inputs: list[str]) -> None:
    paths = [tmp_path / f"{name}.parquet" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        assert run(inputs, path, seed=seed) == 0
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1] != contents[2]


def test_more_windows_than_the_corpus_has(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, tmp_path / "extended.parquet", windows=7) == 1
    assert "has 6 windows, but windows: 7 are asked for" in capsys.readouterr().err


@given(st.integers(1, 200), st.integers(1, 200))
def test_every_part_of_the_text_is_mixed_as_the_whole(corpus: int, generated: int) -> None:
    places = spread(corpus, generated)
    assert (places.count(False), places.count(True)) == (corpus, generated)
    share = generated / (corpus + generated)
    counts = np.cumsum(places)
    assert np.all(np.abs(counts - share * np.arange(1, len(places) + 1)) < 1)
