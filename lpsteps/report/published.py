"""The printed values of the paper.

The paper is "A Simple Linear Patch Revives Layer-Pruned Large Language Models", arXiv 2505.24680,
version 2. One CSV file per table, one line per printed cell. ``value`` is text as printed, so that
``-`` and ``NaN`` stay distinguishable from numbers and trailing zeros are kept.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lpsteps.errors import LpstepsError

COLUMNS = (
    "table",
    "row",
    "model",
    "model_title",
    "n",
    "n_layers",
    "label",
    "selection",
    "recovery",
    "calibration",
    "column",
    "value",
    "unit",
    "note",
)


@dataclass(frozen=True)
class PublishedCell:
    """One printed cell.

    Attributes:
        table: Table id, such as ``table01``.
        row: Row id, unique per model and level in a table.
        model: Model id.
        model_title: Name of the model as the paper writes it.
        n: Removed layers, 0 for dense.
        n_layers: Layers of the dense model.
        label: Text of the row heading.
        selections: Selections that the row stands for; more than one where they give the same
            layers, none for dense.
        recovery: Name of the recovery.
        column: Column id.
        text: The cell as printed.
        unit: Of the column, such as ``percent``; in ``layers`` the text lists layers.
        note: What is odd about the printed value; usually empty.
        path: File that holds it.
        line: Line in the file, 1 for the heading.
        calibration: Name of the calibration in the data config where the table varies it.
    """

    table: str
    row: str
    model: str
    model_title: str
    n: int
    n_layers: int
    label: str
    selections: tuple[str, ...]
    recovery: str
    column: str
    text: str
    unit: str
    note: str
    path: str
    line: int
    calibration: str | None = None

    @property
    def value(self) -> float | None:
        """The printed number, None where the paper prints none (``-``, ``NaN``, lists, words)."""
        if self.unit in ("layers", "text"):
            return None
        try:
            number = float(self.text)
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The printed layers in printed order, None in columns of numbers."""
        return tuple(int(part) for part in self.text.split()) if self.unit == "layers" else None

    @property
    def words(self) -> str | None:
        """The printed words in columns of text, None in others."""
        return self.text if self.unit == "text" else None


def read_published(path: Path) -> tuple[PublishedCell, ...]:
    """Read one file of printed values.

    Raises:
        LpstepsError: The file is missing, lacks a column, or a line is not valid.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise LpstepsError(f"{path}: line 1: the columns must be {', '.join(COLUMNS)}")
            return tuple(_parse(path, reader.line_num, line) for line in reader)
    except OSError as error:
        raise LpstepsError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise LpstepsError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise LpstepsError(f"{path}: not a CSV file ({error}); restore it") from error


def _whole(line: dict[str, str], column: str) -> int:
    if not line[column].isdecimal():
        raise ValueError(f"{column}: {line[column]!r}: must be a whole number")
    return int(line[column])


def _parse(path: Path, number: int, line: dict[str, str]) -> PublishedCell:
    if None in line or None in line.values():
        raise LpstepsError(f"{path}: line {number}: expected {len(COLUMNS)} cells")
    try:
        cell = PublishedCell(
            table=line["table"],
            row=line["row"],
            model=line["model"],
            model_title=line["model_title"],
            n=_whole(line, "n"),
            n_layers=_whole(line, "n_layers"),
            label=line["label"],
            selections=() if line["selection"] == "none" else tuple(line["selection"].split("|")),
            recovery=line["recovery"],
            calibration=line["calibration"] or None,
            column=line["column"],
            text=line["value"],
            unit=line["unit"],
            note=line["note"],
            path=str(path),
            line=number,
        )
        if cell.layers is not None and len(cell.layers) != cell.n:
            raise ValueError(f"{len(cell.layers)} layers are listed but n is {cell.n}")
    except ValueError as error:
        raise LpstepsError(f"{path}: line {number}: {error}") from error
    if (cell.n == 0) != (not cell.selections):
        raise LpstepsError(f"{path}: line {number}: selection: must be 'none' exactly where n is 0")
    if cell.table != path.stem:
        raise LpstepsError(f"{path}: line {number}: table: '{cell.table}': must be '{path.stem}'")
    return cell


Key = tuple[str, str, int, str | None, str, str | None, str]


def by_variant(cells: Iterable[PublishedCell]) -> dict[Key, PublishedCell]:
    """Index printed cells by (table, model, n, selection, recovery, calibration, column).

    The selection is None for dense, the calibration where the table does not vary it. A row that
    stands for several selections is found under each.

    Raises:
        LpstepsError: Two lines print the same cell.
    """
    index: dict[Key, PublishedCell] = {}
    for cell in cells:
        for selection in cell.selections or (None,):
            variant = (cell.n, selection, cell.recovery, cell.calibration)
            key = (cell.table, cell.model, *variant, cell.column)
            if key in index:
                raise LpstepsError(
                    f"{cell.path}: line {cell.line}: the same cell as line {index[key].line}"
                )
            index[key] = cell
    return index
