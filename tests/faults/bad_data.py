"""Broken data: files of benchmarks and texts, and text that does not suffice."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faults.bad_input import BadInput
from faults.commands import Step
from faults.workspace import Workspace

COPA = "data/copa_validation.parquet"
FETCH_COPA = Step("fetch_data", "data/copa/")
TEXT = "resources/data/text-wikipedia/test.parquet"
TOKENIZE = Step("tokenize_corpus", "wikipedia/calibration")
QUESTIONS = "resources/data/arc_easy/test.parquet"
SCORE = Step("evaluate_harness", "tiny/dense/")


def parquet(columns: dict[str, Any]) -> bytes:
    """A Parquet file with these columns."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _copa(name: str, content: bytes, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.write(COPA, content), FETCH_COPA, says)


def _local(
    name: str, file: str, content: bytes | str, *says: str, format: str | None = None
) -> BadInput:
    split = {"path": file, "format": format}
    step = Step("fetch_data", "data/copa/", spec=(("splits", {"validation": split}),))
    return BadInput(name, lambda w: w.write(file, content), step, (file, *says))


def _text(name: str, columns: dict[str, Any], *says: str, **spec: Any) -> BadInput:
    step = Step("tokenize_corpus", "wikipedia/calibration", spec=tuple(spec.items()))
    return BadInput(name, lambda w: w.write_listed(TEXT, parquet(columns)), step, says)


def _questions(name: str, edit: Any, *says: str) -> BadInput:
    def change(workspace: Workspace) -> None:
        table = edit(pq.read_table(workspace.root / QUESTIONS))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        workspace.write_listed(QUESTIONS, sink.getvalue())

    return BadInput(name, change, SCORE, says)


SHORT = {"text": ["A river.", "A stone."]}

CASES = [
    _copa(
        "data without a column",
        parquet({"premise": ["a"]}),
        COPA,
        "no column 'choice1'",
        "allowed:",
    ),
    _copa(
        "data without rows",
        parquet(
            {
                name: pa.array([], pa.string())
                for name in ("premise", "choice1", "choice2", "question", "idx", "label")
            }
        ),
        "no rows",
    ),
    _copa("data that was cut off", parquet(SHORT)[:40], COPA, "not a valid parquet file"),
    _copa("no bytes in place of data", b"", COPA, "not a valid parquet file"),
    _copa("text in place of Parquet", b"premise,choice1\n", COPA, "not a valid parquet file"),
    BadInput(
        "data that is not there", lambda w: w.remove(COPA), FETCH_COPA, (COPA, "correct data_root")
    ),
    _local(
        "data of a kind that is not known",
        "data/copa.xlsx",
        b"PK",
        "unknown kind of file",
        "allowed:",
    ),
    _local("data of a format that is not known", "data/copa.txt", "a\n", "allowed:", format="csv"),
    _local(
        "lines that are not JSON", "data/copa.jsonl", "{'premise': 1}\n", "not a valid jsonl file"
    ),
    _local("lines that hold lists", "data/copa.jsonl", "[1]\n", "holds no object"),
    _local(
        "lines that are not UTF-8",
        "data/copa.jsonl",
        b'{"premise": "\xff"}\n',
        "not a valid jsonl file",
    ),
    _local("lines with a NaN", "data/copa.jsonl", '{"premise": NaN}\n', "no column"),
    _local(
        "lines of several types",
        "data/copa.jsonl",
        '{"premise": 1}\n{"premise": "a"}\n',
        "not a valid jsonl file",
    ),
    _local(
        "lines without an end",
        "data/copa.jsonl.gz",
        gzip.compress(b'{"premise": 1}\n')[:-9],
        "not a valid jsonl file",
    ),
    _local("a name that promises gzip", "data/copa.jsonl.gz", b"{}\n", "not a valid jsonl file"),
    _local("an empty file of lines", "data/copa.jsonl", "", "no column"),
    _local(
        "lines nested without end",
        "data/copa.jsonl",
        '{"premise":' + "[" * 10**5 + "\n",
        "not a valid jsonl file",
    ),
    _local("an invalid stream of Arrow", "data/copa.arrow", b"ARROW1", "not a valid arrow file"),
    _local(
        "requests that are none",
        "data/copa.jsonl",
        '{"query": 1}\n',
        "not a valid arc-requests file",
        format="arc-requests",
    ),
    _text("text shorter than a window", SHORT, "count: all", "ask for fewer or shorter ones"),
    _text(
        "text of white space",
        {"text": ["", " ", "\n"]},
        "count: all",
        "ask for fewer or shorter ones",
    ),
    _text("text that is missing in a row", {"text": ["A river.", None]}, "text", "row 1"),
    _text("numbers in place of text", {"text": [1, 2, 3]}, "text"),
    _text(
        "a text column of another name",
        {"body": ["A river."]},
        "text: text: no such column",
        "allowed: body",
    ),
    _text(
        "a group column that is not there",
        SHORT,
        "group: title: no such column",
        "allowed: text",
        group="title",
    ),
    _text(
        "more windows than the text has",
        {"text": ["a river and a stone " * 9] * 40},
        "count: 100000",
        "ask for fewer",
        count=100000,
    ),
    _text(
        "a partition that is not there",
        SHORT,
        "split: train: not a partition",
        "allowed:",
        split="train",
    ),
    _text(
        "random windows longer than every document",
        {"text": ["A river."] * 9},
        "no document has more tokens",
        "length: 32",
        sampling="random",
        count=2,
    ),
    _text(
        "random offsets in too short a text",
        SHORT,
        "length: 32",
        "ask for shorter",
        sampling="random_offsets",
        count=2,
    ),
    _text("windows of one token", SHORT, "--spec: length: 1", "at least 2", length=1),
    _questions(
        "a benchmark without its questions",
        lambda t: t.drop_columns(["question"]),
        "arc_easy",
        "columns of the dataset on the Hub",
    ),
    _questions(
        "a benchmark without answers",
        lambda t: t.drop_columns(["answerKey"]),
        "arc_easy",
        "columns of the dataset on the Hub",
    ),
    _questions("a benchmark without rows", lambda t: t.slice(0, 0), "arc_easy", "no rows"),
    _questions(
        "a benchmark with an invalid answer",
        lambda t: t.set_column(3, "answerKey", pa.array(["Z"] * t.num_rows)),
        "arc_easy",
    ),
    _questions(
        "a benchmark with numbers in place of choices",
        lambda t: t.set_column(2, "choices", pa.array([1] * t.num_rows)),
        "arc_easy",
    ),
]
