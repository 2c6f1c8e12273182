"""Extractors: small files of each kind against the rows that they stand for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpsteps.data.extract import extract, format_of
from lpsteps.errors import LpstepsError


def _requests(path: Path, documents: list[dict[str, Any]], per_document: int = 2) -> Path:
    lines = [json.dumps({"doc": document}) for document in documents for _ in range(per_document)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_arc_questions_come_once_with_letters_by_position(tmp_path: Path) -> None:
    document = {
        "id": "Q1",
        "query": "Question: Why?\nA. b\nAnswer:",
        "choices": list("xyz"),
        "gold": 2,
    }
    other = {"id": "Q2", "query": "Question: How?\nAnswer:", "choices": list("vwxyz"), "gold": 0}
    path = _requests(tmp_path / "requests.jsonl.gz", [document, other, document])
    table = extract([path], "arc-requests", ["id", "question", "choices", "answerKey"])
    assert table.to_pylist() == [
        {
            "id": "Q1",
            "question": "Why?\nA. b",
            "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]},
            "answerKey": "C",
        },
        {
            "id": "Q2",
            "question": "How?",
            "choices": {"text": list("vwxyz"), "label": list("ABCDE")},
            "answerKey": "A",
        },
    ]


def test_boolq_prompts_become_superglue_rows(tmp_path: Path) -> None:
    documents = [
        {
            "idx": number,
            "query": f"Title -- Passage\nQuestion: no?\nmore {number}."
            "\nQuestion: is it so?\nAnswer:",
            "choices": ["yes", "no"],
            "gold": number,
        }
        for number in (0, 1)
    ]
    path = _requests(tmp_path / "requests.jsonl.gz", documents)
    table = extract([path], "boolq-requests", ["question", "passage", "idx", "label"])
    assert table.to_pylist() == [
        {
            "question": "is it so",
            "passage": f"Title -- Passage\nQuestion: no?\nmore {number}.",
            "idx": number,
            "label": 1 - number,
        }
        for number in (0, 1)
    ]
    assert [str(field.type) for field in table.schema] == ["string", "string", "int32", "int64"]


def test_lambada_passages_get_their_last_word_back(tmp_path: Path) -> None:
    documents = [
        {"id": n, "query": "I don't care about", "choices": [w]} for n, w in enumerate("aba")
    ]
    path = _requests(tmp_path / "requests.jsonl.gz", documents, per_document=1)
    table = extract([path], "lambada-requests", ["text"])
    assert table["text"].to_pylist() == ["I don't care about a", "I don't care about b"]


def test_squad_paragraphs_are_distinct(tmp_path: Path) -> None:
    def query(background: str, question: str) -> str:
        return f"Title: The_Nile\nBackground: {background}\nQuestion: {question}\nAnswer:"

    documents = [
        {"id": "a", "query": query("A river.\n\nIt is long.", "What?")},
        {"id": "b", "query": query("A river.\n\nIt is long.", "How long?")},
        {"id": "c", "query": query("A delta.", "Where?")},
    ]
    path = _requests(tmp_path / "requests.jsonl.gz", documents)
    assert extract([path], "squad-requests", ["title", "text"]).to_pylist() == [
        {"title": "The_Nile", "text": "A river.\n\nIt is long."},
        {"title": "The_Nile", "text": "A delta."},
    ]


def test_coqa_stories_are_distinct(tmp_path: Path) -> None:
    documents = [
        {"id": "s1_turn0", "story": "Once.", "source": "mctest"},
        {"id": "s1_turn1", "story": "Once.", "source": "mctest"},
        {"id": "s2_turn0", "story": "Now.", "source": "cnn"},
    ]
    path = _requests(tmp_path / "requests.jsonl.gz", documents)
    assert extract([path], "coqa-requests", ["source", "text"]).to_pylist() == [
        {"source": "mctest", "text": "Once."},
        {"source": "cnn", "text": "Now."},
    ]


def test_two_documents_with_one_id_are_refused(tmp_path: Path) -> None:
    documents = [
        {"id": 1, "query": "a", "choices": ["b"]},
        {"id": 1, "query": "c", "choices": ["b"]},
    ]
    path = _requests(tmp_path / "requests.jsonl.gz", documents)
    with pytest.raises(LpstepsError, match=r"requests\.jsonl\.gz: .*two different documents"):
        extract([path], "lambada-requests", ["text"])


def test_an_unexpected_prompt_is_refused(tmp_path: Path) -> None:
    documents = [{"id": 1, "query": "Q: Why?\nA:", "choices": ["b"], "gold": 0}]
    path = _requests(tmp_path / "requests.jsonl.gz", documents)
    with pytest.raises(LpstepsError, match="unexpected prompt 'Q: Why"):
        extract([path], "arc-requests", ["id"])


def test_all_table_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"date": "2019-04-25T12:57:54Z", "text": "ünï"}, {"date": "x", "text": "\u2028 line"}]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": "{}"})
    with (
        pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as w,
    ):
        w.write_table(table)
    pq.write_table(table, tmp_path / "t.parquet")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "t.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for path in sorted(tmp_path.iterdir()):
        found = extract([path], format_of(path), ["text", "date"])
        assert found.to_pylist() == rows, path
        assert found.column_names == ["text", "date"]
        assert found.schema.metadata is None


def test_text_lines_take_the_name_of_the_only_column(tmp_path: Path) -> None:
    path = tmp_path / "ptb.txt.gz"
    path.write_bytes(gzip.compress(b" first line \n\n second \xe2\x80\xa8 one\n"))
    table = extract([path], format_of(path), ["sentence"])
    assert table["sentence"].to_pylist() == ["first line", "", "second \u2028 one"]


def test_files_are_joined_in_the_given_order(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name)
    table = extract([tmp_path / "b.txt", tmp_path / "a.txt"], "text", ["text"])
    assert table["text"].to_pylist() == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("t.jsonl", b'{"label": 1}\n', ["lable"], "no column 'lable'; did you mean 'label'?"),
        ("t.jsonl", b'{"label": 1\n', ["label"], "not a valid jsonl file"),
        ("t.jsonl", b'{"label": 1}\n{"label": "x"}\n', ["label"], "not a valid jsonl file"),
        ("t.jsonl", b"[1]\n", ["label"], "not a valid jsonl file (a line holds no object: [1])"),
        (
            "t.jsonl.gz",
            gzip.compress(b"{}" * 99, mtime=0)[:-12],
            ["label"],
            "not a valid jsonl file",
        ),
        (
            "t.jsonl.gz",
            gzip.compress(b"", mtime=0)[:10] + b"\xff" * 9,
            ["label"],
            "not a valid jsonl file",
        ),
        ("t.parquet", b"nothing", ["label"], "not a valid parquet file"),
        ("t.arrow", b"nothing", ["label"], "not a valid arrow file"),
        ("t.txt.gz", b"nothing", ["label"], "not a valid text file"),
        ("t.csv", b"label\n1\n", ["label"], "unknown kind of file; allowed: .arrow, .json, .jsonl"),
    ],
)
def test_bad_files_end_in_one_line_that_names_them(
    tmp_path: Path, name: str, content: bytes, columns: list[str], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LpstepsError) as caught:
        extract([path], format_of(path), columns)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_format_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(LpstepsError, match="did you mean 'arc-requests'"):
        extract([tmp_path], "arc-request", ["id"])
