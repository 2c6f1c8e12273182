"""tokenize_corpus: partitions and windows end to end, with a real small tokenizer."""

from __future__ import annotations

import json
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tokenizer import train_tokenizer
from transformers import AutoTokenizer

from lpsteps.artifacts import file_manifest, read_json, write_json, write_parquet
from lpsteps.steps import tokenize_corpus

ROWS = [
    {"title": f"article {number % 7}", "text": "The cat and the dog, " * (number % 5) + str(number)}
    for number in range(60)
]
SPEC: dict[str, Any] = {
    "corpus": "tiny",
    "split": "test",
    "dataset_split": "validation",
    "text": "text",
    "partitions": {"calibration": 0.5, "test": 0.5},
    "length": 16,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    model, data = root / "models" / "tiny-model", root / "data"
    train_tokenizer().save_pretrained(model)
    write_json(model / "config.json", {"max_position_embeddings": 512})
    write_json(model / "manifest.json", file_manifest(model, [p.name for p in model.iterdir()]))
    data.mkdir()
    write_parquet(data / "validation.parquet", pa.Table.from_pylist(ROWS))
    write_json(data / "manifest.json", file_manifest(data, ["validation.parquet"]))
    return root


def _run(root: Path, output: Path, **changes: Any) -> int:
    arguments = ["--model", str(root / "models/tiny-model/manifest.json")]
    arguments += ["--data", str(root / "data/manifest.json"), "--windows", str(output)]
    return tokenize_corpus.main([*arguments, "--spec", json.dumps(SPEC | changes)])


def test_the_whole_split_follows_the_perplexity_protocol(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "windows.parquet"
    assert _run(root, output, partitions={"test": 1.0}, add_bos=True) == 0
    tokenizer = AutoTokenizer.from_pretrained(root / "models/tiny-model")
    text = "\n\n".join(row["text"] for row in ROWS)
    stream = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    table = pq.read_table(output)
    pieces = [stream[at : at + 16] for at in range(0, len(stream) - 15, 16)]
    assert table["token_ids"].to_pylist() == pieces
    assert table["window"].to_pylist() == list(range(len(pieces)))
    assert table.schema.metadata == {
        b"corpus": b"tiny",
        b"length": b"16",
        b"model": b"tiny-model",
        b"split": b"test",
    }
    record = read_json(tmp_path / "windows.parquet.record.json")
    assert record["notes"] == {"documents": 60, "tokens": len(stream), "windows": len(pieces)}


@pytest.mark.parametrize("add_bos", [False, True])
def test_every_window_begins_with_bos(root: Path, tmp_path: Path, add_bos: bool) -> None:
    """Once, also where the text has one, and the text goes on from window to window."""
    output = tmp_path / "windows.parquet"
    settings = {"bos_in_windows": True, "add_bos": add_bos}
    assert _run(root, output, partitions={"test": 1.0}, **settings) == 0
    tokenizer = AutoTokenizer.from_pretrained(root / "models/tiny-model")
    text = "\n\n".join(row["text"] for row in ROWS)
    stream = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.bos_token_id not in stream
    table = pq.read_table(output)
    windows = table["token_ids"].to_pylist()
    assert {len(window) for window in windows} == {16}
    assert {window[0] for window in windows} == {tokenizer.bos_token_id}
    assert len(windows) == len(stream) // 15
    assert [token for window in windows for token in window[1:]] == stream[: 15 * len(windows)]
    # What the file says of its windows: where the text of each document begins in them.
    tokens_of: dict[str, list[int]] = {}
    for row in table.to_pylist():
        assert row["offsets"][0] == 1
        ends = [*row["offsets"][1:], 16]
        for name, start, end in zip(row["documents"], row["offsets"], ends, strict=True):
            tokens_of.setdefault(name, []).extend(row["token_ids"][start:end])
    for name, tokens in list(tokens_of.items())[:-1]:
        assert tokenizer.decode(tokens) == ROWS[int(name)]["text"] + "\n\n"
    assert table.schema.metadata[b"length"] == b"16"
    assert table.schema.metadata[b"bos_in_windows"] == b"true"
    record = read_json(tmp_path / "windows.parquet.record.json")
    assert record["notes"] == {"documents": 60, "tokens": len(stream), "windows": len(windows)}


@pytest.mark.parametrize("sampling", ["random", "random_offsets"])
def test_drawn_windows_begin_with_bos(root: Path, tmp_path: Path, sampling: str) -> None:
    output = tmp_path / "windows.parquet"
    settings = {"sampling": sampling, "count": 30, "bos_in_windows": True, "add_bos": True}
    assert _run(root, output, partitions={"test": 1.0}, **settings) == 0
    tokenizer = AutoTokenizer.from_pretrained(root / "models/tiny-model")
    texts = [row["text"] for row in ROWS]
    if sampling == "random_offsets":
        texts = ["\n\n".join(texts)]
    streams = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    windows = pq.read_table(output)["token_ids"].to_pylist()
    assert len(windows) == 30
    for bos, *tokens in windows:
        assert (bos, len(tokens)) == (tokenizer.bos_token_id, 15)
        assert any(
            stream[at : at + 15] == tokens for stream in streams for at in range(len(stream) - 14)
        )


def test_bos_in_windows_needs_a_tokenizer_that_has_one(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "without"
    shutil.copytree(root, folder)
    model = folder / "models/tiny-model"
    tokenizer = train_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(model)
    write_json(
        model / "manifest.json",
        file_manifest(model, [p.name for p in model.iterdir() if p.name != "manifest.json"]),
    )
    output = tmp_path / "windows.parquet"
    assert _run(folder, output, bos_in_windows=True) == 1
    assert capsys.readouterr().err == (
        "error: tokenize_corpus: corpus tiny, test: bos_in_windows: true: the tokenizer of this "
        "model has no BOS token; set it to false\n"
    )
    assert not output.exists()
    assert _run(folder, output) == 0


def test_partitions_share_no_group(root: Path, tmp_path: Path) -> None:
    titles = {}
    for split in ("calibration", "test"):
        assert _run(root, tmp_path / split, split=split, group="title", seed=2) == 0
        windows = pq.read_table(tmp_path / split)["documents"].to_pylist()
        titles[split] = {ROWS[int(name)]["title"] for window in windows for name in window}
    assert titles["calibration"] and titles["test"]
    assert not titles["calibration"] & titles["test"]


def test_count_keeps_the_first_windows(root: Path, tmp_path: Path) -> None:
    assert _run(root, tmp_path / "all") == 0
    assert _run(root, tmp_path / "some", count=3) == 0
    kept = pq.read_table(tmp_path / "some").to_pylist()
    assert len(kept) == 3
    assert kept == pq.read_table(tmp_path / "all").slice(0, 3).to_pylist()


def test_random_windows_tokenise_each_document_alone(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "windows.parquet"
    settings = {"sampling": "random", "count": 9, "seed": 0, "add_bos": True}
    assert _run(root, output, partitions={"test": 1.0}, **settings) == 0
    tokenizer = AutoTokenizer.from_pretrained(root / "models/tiny-model")
    random.seed(0)
    expected = []
    for _ in range(9):
        while True:
            row = random.randint(0, len(ROWS) - 1)
            encoded = tokenizer(ROWS[row]["text"])["input_ids"]
            if len(encoded) > 16:
                break
        start = random.randint(0, len(encoded) - 17)
        expected.append((encoded[start : start + 16], [str(row)]))
    table = pq.read_table(output).to_pylist()
    assert [(row["token_ids"], row["documents"]) for row in table] == expected


def test_random_offsets_take_windows_of_the_joined_text(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "windows.parquet"
    settings = {"sampling": "random_offsets", "count": 40, "seed": 5}
    assert _run(root, output, partitions={"test": 1.0}, **settings) == 0
    tokenizer = AutoTokenizer.from_pretrained(root / "models/tiny-model")
    text = "\n\n".join(row["text"] for row in ROWS)
    stream = tokenizer(text, add_special_tokens=False)["input_ids"]
    random.seed(5)
    starts = [random.randint(0, len(stream) - 17) for _ in range(40)]
    found = pq.read_table(output)["token_ids"].to_pylist()
    assert found == [stream[start : start + 16] for start in starts]


NINE_TENTHS = {"calibration": 0.9, "rest": 0.1}


def test_offsets_in_the_first_part_are_those_of_the_released_program(
    root: Path, tmp_path: Path
) -> None:
    """It divides the tokens, not the documents, and draws before the border alone."""
    settings = {"sampling": "random_offsets", "count": 40, "seed": 2, "add_bos": True}
    for split in NINE_TENTHS:
        output = tmp_path / split
        changes = {"division": "in_order", "split": split, "partitions": NINE_TENTHS}
        assert _run(root, output, **changes, **settings) == 0
    tokenizer = AutoTokenizer.from_pretrained(root / "models/tiny-model")
    text = "\n\n".join(row["text"] for row in ROWS)
    stream = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    border = int(len(stream) * 0.9)
    random.seed(2)
    starts = [random.randint(0, border - 17) for _ in range(40)]
    found = pq.read_table(tmp_path / "calibration")
    assert found["token_ids"].to_pylist() == [stream[start : start + 16] for start in starts]
    rest = stream[border:]
    for window, documents in zip(
        pq.read_table(tmp_path / "rest")["token_ids"].to_pylist(),
        pq.read_table(tmp_path / "rest")["documents"].to_pylist(),
        strict=True,
    ):
        assert any(rest[at : at + 16] == window for at in range(len(rest) - 15))
        # The names of the documents are those of the whole text.
        assert min(map(int, documents)) >= 48


def test_documents_in_order_are_divided_by_their_number(root: Path, tmp_path: Path) -> None:
    settings = {"sampling": "random", "count": 50, "seed": 2, "division": "in_order"}
    for split, rows in (("calibration", range(54)), ("rest", range(54, 60))):
        output = tmp_path / split
        assert _run(root, output, split=split, partitions=NINE_TENTHS, **settings) == 0
        named = {int(name) for (name,) in pq.read_table(output)["documents"].to_pylist()}
        assert named <= set(rows)
        assert len(named) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 10_000}, "count: 10000: the text has "),
        ({"split": "tset"}, "split: tset: not a partition; did you mean 'test'?"),
        ({"text": "txt"}, "text: txt: no such column; did you mean 'text'?"),
        ({"group": "article"}, "group: article: no such column"),
        ({"dataset_split": "train"}, "train.parquet"),
        ({"sampling": "random"}, "count: null: random windows have no natural end"),
        ({"sampling": "random_offsets"}, "count: null: random windows have no natural end"),
        ({"sampling": "random", "count": 2, "length": 500}, "length: 500: no document has more"),
        ({"length": 1}, "--spec: length: 1"),
        ({"length": 513}, "length: 513: the model takes 512 tokens; lower window_length"),
    ],
)
def test_mistakes_end_in_one_line(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    assert _run(root, tmp_path / "windows.parquet", **changes) == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"max_position_embeddings": 40}, 40),
        ({"n_positions": 30}, 30),
        ({"text_config": {"max_position_embeddings": 20}, "max_position_embeddings": 50}, 20),
        ({"vocab_size": 300}, None),
        ({"max_position_embeddings": None}, None),
    ],
)
def test_no_window_is_longer_than_what_the_model_takes(
    root: Path, tmp_path: Path, config: dict[str, Any], most: int | None
) -> None:
    shutil.copytree(root, tmp_path / "root")
    model = tmp_path / "root/models/tiny-model"
    write_json(model / "config.json", config)
    names = [path.name for path in model.iterdir() if path.name != "manifest.json"]
    write_json(model / "manifest.json", file_manifest(model, names))
    output = tmp_path / "windows.parquet"
    assert _run(tmp_path / "root", output, length=most or 60) == 0
    output.unlink()
    assert _run(tmp_path / "root", output, length=(most or 60) + 1) == (1 if most else 0)
    assert output.exists() == (most is None)


def test_the_tokenizer_runs_code_where_the_manifest_trusts_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = root / "models/tiny-model/manifest.json"
    content = read_json(manifest)
    asked = []

    def loaded(*arguments: Any, trust_remote_code: bool, **options: Any) -> Any:
        asked.append(trust_remote_code)
        return train_tokenizer()

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loaded)
    try:
        for trusted in (True, False):
            write_json(manifest, content | {"trust_remote_code": trusted})
            assert _run(root, tmp_path / f"{trusted}.parquet") == 0
    finally:
        write_json(manifest, content)
    assert asked == [True, False]


def test_random_windows_make_strings_of_the_drawn_documents_alone(
    root: Path, tmp_path: Path
) -> None:
    """A shard of C4 has hundreds of thousands of documents, of which a few hundred are drawn."""
    folder = tmp_path / "many"
    shutil.copytree(root, folder)
    text = pa.array([f"{number} the cat and the dog " * 1000 for number in range(2000)])
    write_parquet(folder / "data/validation.parquet", pa.table({"text": text}))
    write_json(
        folder / "data/manifest.json", file_manifest(folder / "data", ["validation.parquet"])
    )
    tracemalloc.start()
    try:
        output = tmp_path / "windows.parquet"
        random_ones = {"sampling": "random", "count": 3, "partitions": {"test": 1.0}}
        assert _run(folder, output, **random_ones) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < text.nbytes / 2


def test_text_in_a_dictionary_is_text(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoded"
    shutil.copytree(root, folder)
    path = folder / "data/validation.parquet"
    table = pq.read_table(path)
    write_parquet(
        path, table.set_column(1, "text", table["text"].combine_chunks().dictionary_encode())
    )
    write_json(folder / "data/manifest.json", file_manifest(path.parent, [path.name]))
    outputs = [tmp_path / name for name in ("a.parquet", "b.parquet")]
    assert _run(root, outputs[0]) == _run(folder, outputs[1]) == 0
    first, second = (pq.read_table(output)["token_ids"].to_pylist() for output in outputs)
    assert first == second
