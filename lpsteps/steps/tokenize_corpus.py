"""Cuts one partition of a corpus into windows of tokens, with the tokenizer of one model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lpsteps.artifacts import read_json, read_parquet, write_parquet
from lpsteps.data.corpora import JoinedText, join_documents, partition_rows, partition_span
from lpsteps.data.specs import Spec
from lpsteps.data.windows import (
    TokenStream,
    Windows,
    bos_token,
    consecutive_windows,
    random_offset_windows,
    random_windows,
    tokenize,
    windows_table,
)
from lpsteps.errors import LpstepsError, nearest
from lpsteps.models.tokenizer import load_tokenizer
from lpsteps.program import StepRun, run_step
from lpsteps.progress import elapsed
from lpsteps.validation import validated

if TYPE_CHECKING:
    import pyarrow as pa


class CorpusSpec(Spec):
    """Which text, how it is divided, and how the windows are cut."""

    corpus: str = Field(description="name of the corpus in config/data.yaml")
    split: str = Field(description="the partition to cut: a key of `partitions`")
    dataset_split: str = Field(description="split of the dataset that holds the text")
    text: str = Field(description="column with the text of a document")
    group: str | None = Field(
        default=None, description="column; rows with equal values stay in the same partition"
    )
    separator: str = Field(default="\n\n", description="put between documents before tokenising")
    partitions: dict[str, float] = Field(description="shares of the text", min_length=1)
    division: Literal["shuffled", "in_order"] = Field(
        default="shuffled", description="documents from all over, or one partition after the other"
    )
    seed: int = Field(default=0, description="seed of the partitions and of random windows")
    sampling: Literal["consecutive", "random", "random_offsets"] = Field(default="consecutive")
    length: int = Field(description="tokens per window", ge=2)
    count: int | None = Field(default=None, description="number of windows, null for all", ge=1)
    add_bos: bool = Field(
        default=False,
        description="one BOS token at the start of the text; nothing with `bos_in_windows`",
    )
    bos_in_windows: bool = Field(
        default=False, description="one BOS token at the start of every window"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's description."""
    return run_step("lpsteps.steps.tokenize_corpus", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model")
    parser.add_argument("--data", type=Path, required=True, help="manifest of the dataset")
    parser.add_argument("--windows", type=Path, required=True, help="output, Parquet")


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(CorpusSpec, step.spec, "--spec")
    try:
        _cut(step, arguments, spec)
    except LpstepsError as error:
        raise LpstepsError(f"corpus {spec.corpus}, {spec.split}: {error}") from error


def _text_column(column: pa.ChunkedArray, spec: CorpusSpec, folder: Path) -> pa.ChunkedArray:
    """Return the text of all documents as Arrow holds it.

    Raises:
        LpstepsError: A row holds something else than text.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if is_text and column.null_count == 0:
        return column
    if len(column) == 0:
        return column.cast(pa.string())
    row = column.is_null().index(True).as_py() if is_text else 0
    raise LpstepsError(
        f"text: {spec.text}: row {row} of {folder}/{spec.dataset_split}.parquet is "
        f"{column[row].as_py()!r}, not text; name another column, or remove the row"
    )


def _lengths(texts: pa.ChunkedArray) -> list[int]:
    """Return the number of characters of each text."""
    import pyarrow.compute

    lengths: list[int] = pyarrow.compute.utf8_length(texts).to_pylist()
    return lengths


def _check_length(config: dict[str, Any], length: int) -> None:
    """Check that a model takes windows of a length.

    Raises:
        LpstepsError: It has fewer positions.
    """
    nested = config.get("text_config")
    settings = config | (nested if isinstance(nested, dict) else {})
    # GPT-2 has a name of its own for it.
    names = ("max_position_embeddings", "n_positions")
    most = min((n for name in names if isinstance(n := settings.get(name), int)), default=length)
    if length > most:
        raise LpstepsError(
            f"length: {length}: the model takes {most} tokens; lower window_length in the profile, "
            "or `length` of the corpus"
        )


def _cut(step: StepRun, arguments: Namespace, spec: CorpusSpec) -> None:
    step.read_manifest(arguments.model)
    _check_length(read_json(arguments.model.parent / "config.json"), spec.length)
    step.read_manifest(arguments.data)
    table = read_parquet(arguments.data.parent / f"{spec.dataset_split}.parquet")
    for key in ("text", "group"):
        column = getattr(spec, key)
        if column is not None and column not in table.column_names:
            raise LpstepsError(
                f"{key}: {column}: no such column; {nearest(column, table.column_names)}"
            )
    texts = _text_column(table[spec.text], spec, arguments.data.parent)
    numbers = [str(row) for row in range(len(texts))]
    groups = numbers if spec.group is None else table[spec.group].to_pylist()
    rows: Sequence[int] = range(len(texts))
    match spec.division, spec.sampling:
        case "shuffled", _:
            lengths = _lengths(texts)
            rows = partition_rows(groups, lengths, spec.partitions, spec.seed, spec.split)
        case "in_order", "random":
            rows = rows[partition_span(len(rows), spec.partitions, spec.split)]
    names = [numbers[row] for row in rows]
    tokenizer = load_tokenizer(arguments.model.parent)
    bos = bos_token(tokenizer, "bos_in_windows") if spec.bos_in_windows else None
    # The token at the start of the text would be a second one in its first window.
    add_bos = spec.add_bos and bos is None

    def stream() -> tuple[TokenStream, JoinedText]:
        joined = join_documents([texts[row].as_py() for row in rows], names, spec.separator)
        with elapsed(f"tokenising {spec.corpus}"):
            tokens = tokenize(tokenizer, joined.text, add_bos)
        if spec.division == "in_order":
            tokens = tokens.part(partition_span(len(tokens.ids), spec.partitions, spec.split))
        step.note("tokens", len(tokens.ids))
        return tokens, joined

    windows: Windows
    match spec.sampling, spec.count:
        case "consecutive", count:
            windows = consecutive_windows(*stream(), spec.length, count, bos)
        case "random_offsets", int(count):
            windows = random_offset_windows(*stream(), spec.length, count, spec.seed, bos)
        case "random", int(count):
            windows = random_windows(
                # Few documents are drawn: the others are never made into Python's strings.
                lambda place: tokenize(tokenizer, texts[rows[place]].as_py(), add_bos).ids,
                names,
                spec.length,
                count,
                spec.seed,
                bos,
            )
        case _:
            raise LpstepsError("count: null: random windows have no natural end; give a number")
    step.note("documents", len(rows))
    step.note("windows", len(windows.token_ids))
    metadata = {
        "corpus": spec.corpus,
        "length": str(spec.length),
        "model": arguments.model.parent.name,
        "split": spec.split,
        **({"bos_in_windows": "true"} if spec.bos_in_windows else {}),
    }
    write_parquet(step.write(arguments.windows), windows_table(windows, metadata))


if __name__ == "__main__":
    raise SystemExit(main())
