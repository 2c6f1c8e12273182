"""Table definitions: which variants are the rows of a table and which benchmarks its columns.

A table is one file in ``reports/tables``. Its rows are queries for variants (a selection and a
recovery, both by their names in the methods config, on a calibration), its columns are benchmarks
or values derived from the benchmarks of the same table. The workflow asks
:meth:`TableDefinition.variants` and :meth:`TableDefinition.benchmarks` what there is to compute, so
this module is loaded by the Snakefile and imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps import text_patterns
from lpsteps.definition_files import (
    FileDefinition,
    definition_path,
    list_definitions,
    read_definition,
)
from lpsteps.errors import nearest
from lpsteps.overheads.measurements import OperationName, StorageName

FOLDER = Path("reports/tables")

NO_RECOVERY = "none"


Unit = Literal[
    "percent",
    "perplexity",
    "layers",
    "share",
    "parameters",
    "flops",
    "tokens",
    "answer",
    "windows",
    "outcomes",
    "bytes",
    "text",
    "count",
    "milliseconds",
    "factor",
]

# Units of the columns that have one unit only.
_UNITS: dict[str, Unit] = {
    "layers": "layers",
    "share_closed": "share",
    "parameters_added": "parameters",
    "flops_added": "flops",
    "foldable": "answer",
    "trained": "answer",
    "calibration_tokens": "tokens",
    "distilled_windows": "windows",
    "distilled_tokens": "tokens",
    "top_k": "outcomes",
    "target_storage": "bytes",
    "model_source": "text",
    "model_revision": "text",
    "model_layers": "count",
    "model_width": "count",
    "model_parameters": "parameters",
    "overhead_parameters": "parameters",
    "overhead_flops": "flops",
    "overhead_prefill": "milliseconds",
    "overhead_decode": "milliseconds",
    "overhead_size_ratio": "factor",
    "overhead_prefill_ratio": "factor",
    "overhead_decode_ratio": "factor",
    "storage_per_token": "bytes",
    "storage_text": "bytes",
    "storage_ratio": "factor",
}

MODEL_FACTS = tuple(kind for kind in _UNITS if kind.startswith("model_"))
"""Kinds of columns that state facts of the dense model, for which nothing has to be run."""

OVERHEADS = tuple(kind for kind in _UNITS if kind.startswith(("overhead_", "storage_")))
"""Kinds of columns that state what an operation costs, or a way to store targets."""

MOST_LINES = 8


class Column(BaseModel):
    """One column of a table.

    Attributes:
        id: Name of a benchmark, or of a derived value; unique in the table.
        title: Heading, as short as in the paper.
        kind: What the cells hold.

            ==================== ===============================================================
            benchmark            a score
            mean                 mean of the columns ``of``
            weighted_mean        mean of the columns ``of``, each weighted by the number of
                                 documents that its whole split has
            retained             mean over the columns ``of`` of pruned / dense, in percent
            share_closed         mean over the perplexities ``of`` of the part of the gap between
                                 the table's reference row and the dense model that is closed
            ratio                share of the parameters removed, in percent
            layers               the removed layers themselves
            parameters_added     parameters of the patches
            flops_added          floating-point operations of the patches for each token
            foldable             whether the patches can be folded into the stock architecture, and
                                 by what
            trained              whether the repair is trained
            calibration_tokens   tokens of text that the repair reads
            distilled_windows    windows of text that distillation read
            distilled_tokens     tokens that it read, those of a second pass counted again
            top_k                outcomes per position that it compares
            target_storage       bytes that its targets take when they are stored
            model_source         repository, package or folder that the model comes from
            model_revision       commit or version of it
            model_layers         decoder layers of the dense model
            model_width          width of its residual stream
            model_parameters     its parameters
            overhead_parameters  parameters of an operation
            overhead_flops       floating-point operations of it for each token
            overhead_prefill     time of it for a batch of windows
            overhead_decode      time of it for one more token of each window
            overhead_size_ratio  its parameters over those of the patch
            overhead_..._ratio   its time over that of the patch
            storage_per_token    bytes that a way to store targets takes for each token
            storage_text         bytes that it takes for the training text
            storage_ratio        how many times smaller that is than hidden states
            ==================== ===============================================================
        unit: Unit of the cells.
        group: Heading above neighbouring columns that share it; empty for none.
        of: Benchmark columns that a derived value is computed from.
        partial: Whether a derived value may leave out benchmarks that were not scored for the
            model at all. The cell then says how many it is over.
        against: Rows that the cells of a share are compared with.
        shown: Whether the page has the column. The cells of other columns are there for what is
            derived from them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=text_patterns.TABLE_COLUMN)
    title: str
    kind: Literal[
        "benchmark",
        "mean",
        "weighted_mean",
        "retained",
        "share_closed",
        "ratio",
        "layers",
        "parameters_added",
        "flops_added",
        "foldable",
        "trained",
        "calibration_tokens",
        "distilled_windows",
        "distilled_tokens",
        "top_k",
        "target_storage",
        "model_source",
        "model_revision",
        "model_layers",
        "model_width",
        "model_parameters",
        "overhead_parameters",
        "overhead_flops",
        "overhead_prefill",
        "overhead_decode",
        "overhead_size_ratio",
        "overhead_prefill_ratio",
        "overhead_decode_ratio",
        "storage_per_token",
        "storage_text",
        "storage_ratio",
    ] = "benchmark"
    unit: Unit
    group: str = ""
    of: tuple[str, ...] = ()
    partial: bool = False
    against: tuple[str, ...] = ()
    shown: bool = True

    @property
    def is_derived(self) -> bool:
        """Whether the value is computed from other columns."""
        return self.kind in ("mean", "weighted_mean", "retained", "share_closed")

    @property
    def higher_is_better(self) -> bool | None:
        """True for accuracies, False for perplexities, None where neither end is better."""
        if self.kind == "benchmark" or self.is_derived:
            return self.unit != "perplexity"
        return None

    @model_validator(mode="after")
    def _check_kind(self) -> Column:
        if bool(self.of) != self.is_derived:
            raise ValueError(
                f"'{self.id}': `of` lists benchmarks for kind mean, weighted_mean, retained or "
                "share_closed, only there"
            )
        if self.against and self.kind != "share_closed":
            raise ValueError(f"'{self.id}': `against` lists rows for kind share_closed, only there")
        expected = _UNITS.get(self.kind)
        if (expected or self.unit) != self.unit or (
            expected is None and self.unit in _UNITS.values()
        ):
            allowed = expected or "percent or perplexity"
            raise ValueError(f"'{self.id}': unit: '{self.unit}': kind {self.kind} is in {allowed}")
        return self


class Query(NamedTuple):
    """What a row asks for: names in the config, the calibration None for the profile's."""

    selection: str
    recovery: str
    calibration: str | None = None


class Row(BaseModel):
    """One row of a table: a query for a variant, asked once per pruning level.

    Attributes:
        id: Part of the cell ids; unique in the table.
        label: Text of the row heading.
        selection: Name of a selection or of a width pruning in the methods config, None for the
            dense model.
        recovery: Name in the methods config.
        calibration: Name in the data config of the text on which layers are chosen and repaired;
            None for the profile's.
        missing: What to say where the config lacks the selection, the recovery or the calibration;
            such a row may also ask for more training text than the profile has.
        group: Heading above neighbouring rows that share it; empty for none.
        overhead: Operation or way to store targets that a row of costs is about.
        printed_tokens: Tokens on which the paper trains the row, in one pass, where it says so. A
            row of ours that is trained on another number of them, or in several passes, shows no
            difference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=text_patterns.TABLE_ROW)
    label: str
    selection: str | None = None
    recovery: str = NO_RECOVERY
    calibration: str | None = None
    missing: str | None = None
    group: str = ""
    overhead: OperationName | StorageName | None = None
    printed_tokens: int | None = Field(default=None, ge=1)

    @property
    def query(self) -> Query | None:
        """What the row shows, None for the dense model."""
        if self.selection is None:
            return None
        return Query(self.selection, self.recovery, self.calibration)

    @model_validator(mode="after")
    def _check_calibration(self) -> Row:
        if self.selection is None and self.calibration is not None:
            raise ValueError(
                f"row '{self.id}': calibration: '{self.calibration}': the dense model needs none"
            )
        if self.selection is None and self.recovery != NO_RECOVERY:
            raise ValueError(
                f"row '{self.id}': recovery: '{self.recovery}': the dense model needs none; "
                "name the selection"
            )
        if self.selection is not None and self.overhead is not None:
            raise ValueError(
                f"row '{self.id}': overhead: '{self.overhead}': costs are those of no selection; "
                "leave one out"
            )
        return self


class Panel(BaseModel):
    """One picture of a figure: a column against the number of removed layers.

    Attributes:
        y: Id of the column.
        title: What the column holds.
        scale: Scale of its axis; ``log`` for perplexities only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    y: str
    title: str
    scale: Literal["linear", "log"] = "linear"


class Sweep(BaseModel):
    """A horizontal axis along which rows stand.

    Attributes:
        title: What varies from row to row.
        of: The number of each row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    of: dict[str, float] = Field(min_length=2)

    @model_validator(mode="after")
    def _check_places(self) -> Sweep:
        if len(set(self.of.values())) < len(self.of):
            raise ValueError("figure: x: two rows stand at the same place")
        return self


class Figure(BaseModel):
    """Pictures of some rows of a table.

    Attributes:
        rows: The row behind each line and its name in the figure, in the order of the legend; no
            more than can be told apart. Their horizontal axis is the number of removed layers.
        x: In place of ``rows``: the horizontal axis along which rows stand. There is one line for
            each number of removed layers.
        panels: The pictures, side by side.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: dict[str, str] = Field(default={}, max_length=MOST_LINES)
    x: Sweep | None = None
    panels: tuple[Panel, ...] = Field(min_length=1)

    @property
    def drawn_rows(self) -> tuple[str, ...]:
        """The ids of the rows that are drawn."""
        return tuple(self.x.of if self.x else self.rows)

    @model_validator(mode="after")
    def _check_axis(self) -> Figure:
        if bool(self.rows) == (self.x is not None):
            raise ValueError("figure: give either `rows`, one line each, or `x`, one point each")
        return self


class Curves(BaseModel):
    """Training curves of some rows of a table, one picture per number of removed layers.

    Attributes:
        rows: The row behind each curve and its name in the figure, in the order of the legend.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The first look, a grey line, is that of a row without repair.
    rows: dict[str, str] = Field(min_length=1, max_length=MOST_LINES - 1)


class TableDefinition(FileDefinition):
    """One table of the report.

    Attributes:
        id: Name of the file without suffix.
        title: Heading.
        caption: What the numbers are, in one or two plain sentences.
        columns: In display order.
        rows: In display order. The dense row is shown once per model, the others per level.
        reference_row: Id of the row without repair, where shares of a gap begin.
        figure: Pictures of the table, if any.
        curves: Training curves of distilled rows, if any.
        glance: Columns that the top of the page shows as a bar for each row.
    """

    title: str
    caption: str
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    reference_row: str | None = None
    figure: Figure | None = None
    curves: Curves | None = None
    glance: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_references(self) -> TableDefinition:
        _refuse_repeated("column", (column.id for column in self.columns))
        _refuse_repeated("row", (row.id for row in self.rows))
        self._check_overheads()
        if sum(row.selection is None and row.overhead is None for row in self.rows) > 1:
            raise ValueError("more than one row without a selection: only the dense row has none")
        benchmarks = self.benchmarks()
        for column in self.columns:
            for name in column.of:
                if name not in benchmarks:
                    raise ValueError(
                        f"column '{column.id}': '{name}' is no benchmark column of this table, "
                        f"{nearest(name, benchmarks)}"
                    )
            if column.kind == "retained" and self.dense_row is None:
                raise ValueError(f"column '{column.id}': pruned / dense needs a dense row")
            if column.kind == "share_closed":
                self._check_share(column)
            else:
                self._check_units(column)
        self._check_glance()
        if self.reference_row is not None:
            self._require_pruned("reference_row", self.reference_row)
        if self.figure is not None:
            self._check_figure(self.figure)
        for name in self.curves.rows if self.curves else ():
            self._require_pruned("curves", name)
        return self

    def _check_overheads(self) -> None:
        for column in self.columns:
            names: tuple[str, ...] = ()
            if column.kind in OVERHEADS:
                names = get_args(
                    StorageName if column.kind.startswith("storage_") else OperationName
                )
            for row in self.rows:
                if row.overhead not in (names or (None,)):
                    needed = f"one of {', '.join(names)}" if names else "none"
                    raise ValueError(
                        f"row '{row.id}': overhead: {row.overhead}: column '{column.id}' of kind "
                        f"{column.kind} needs {needed}"
                    )

    def _check_glance(self) -> None:
        columns = {column.id: column for column in self.columns}
        for name in self.glance:
            if name not in columns:
                raise ValueError(f"glance: '{name}' is no column, {nearest(name, columns)}")
            if columns[name].unit not in ("percent", "perplexity"):
                raise ValueError(f"glance: '{name}': bars need percent or perplexity")
        if self.glance and self.dense_row is None:
            raise ValueError("glance: bars stand beside that of the dense model; add its row")

    def _check_units(self, column: Column) -> None:
        expected = "percent" if column.kind == "retained" else column.unit
        for name in column.of:
            if self.column(name).unit != expected:
                raise ValueError(
                    f"column '{column.id}': of: '{name}' is in {self.column(name).unit}, but "
                    f"{column.kind} needs {expected}"
                )

    def _check_share(self, column: Column) -> None:
        if self.dense_row is None or self.reference_row is None:
            raise ValueError(f"column '{column.id}': a share needs a dense row and `reference_row`")
        for name in column.of:
            if self.column(name).unit != "perplexity":
                raise ValueError(f"column '{column.id}': '{name}' is no perplexity")
        for name in column.against:
            self._require_pruned(f"column '{column.id}': against", name)

    def _check_figure(self, figure: Figure) -> None:
        for name in figure.drawn_rows:
            self._require_pruned("figure", name)
        numbers = [column.id for column in self.columns if column.higher_is_better is not None]
        for panel in figure.panels:
            if panel.y not in numbers:
                raise ValueError(
                    f"figure: '{panel.y}' is no column of scores, {nearest(panel.y, numbers)}"
                )
            if panel.scale == "log" and self.column(panel.y).unit != "perplexity":
                raise ValueError(f"figure: '{panel.y}' may be 0: only perplexities have a log axis")

    def _require_pruned(self, where: str, name: str) -> None:
        names = [row.id for row in self.pruned_rows]
        if name not in names:
            raise ValueError(f"{where}: '{name}' is no pruned row, {nearest(name, names)}")

    def column(self, name: str) -> Column:
        """Return a column by its id."""
        return next(column for column in self.columns if column.id == name)

    def row(self, name: str) -> Row:
        """Return a row by its id."""
        return next(row for row in self.rows if row.id == name)

    @property
    def number(self) -> int | None:
        """Number of the table in the paper, None for a table of our own."""
        found = re.fullmatch(r"table(\d+)", self.id)
        return int(found[1]) if found else None

    @property
    def dense_row(self) -> Row | None:
        """The row of the dense model, if the table shows it."""
        rows = (row for row in self.rows if row.selection is None and row.overhead is None)
        return next(rows, None)

    @property
    def pruned_rows(self) -> tuple[Row, ...]:
        """All rows of pruned models."""
        return tuple(row for row in self.rows if row.selection is not None)

    @property
    def overhead_rows(self) -> tuple[Row, ...]:
        """The rows of costs, which do not depend on the number of removed layers."""
        return tuple(row for row in self.rows if row.overhead is not None)

    @property
    def ends(self) -> tuple[Row, Row]:
        """The dense row and the reference row, which a table with shares of a gap has."""
        assert self.dense_row is not None and self.reference_row is not None
        return self.dense_row, self.row(self.reference_row)

    def queries(self) -> tuple[Query | None, ...]:
        """Return the distinct queries in row order, None for dense."""
        return tuple(dict.fromkeys(row.query for row in self.rows))

    def variants(self) -> tuple[Query | None, ...]:
        """Return the queries whose variants have to be built.

        There are none if only the removed layers, facts of the dense model or costs are shown.
        """
        unbuilt = ("layers", *MODEL_FACTS, *OVERHEADS)
        nothing_built = all(column.kind in unbuilt for column in self.columns)
        return () if nothing_built else self.queries()

    def benchmarks(self) -> tuple[str, ...]:
        """Return the benchmarks that the columns show, in column order."""
        return tuple(column.id for column in self.columns if column.kind == "benchmark")


def _refuse_repeated(what: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise ValueError(f"{what} '{name}' is there twice: ids are unique in a table")
        seen.add(name)


def read_table(path: Path) -> TableDefinition:
    """Read one table definition.

    Raises:
        LpstepsError: The file is missing, is not YAML, or defines no valid table; the message
            names the file and the key.
    """
    return read_definition(path, TableDefinition)


def list_tables(folder: Path = FOLDER) -> list[str]:
    """Return the names of all table definitions, sorted."""
    return list_definitions(folder)


def load_table(name: str, folder: Path = FOLDER) -> TableDefinition:
    """Read the definition of the table ``name``.

    Raises:
        LpstepsError: There is no such table (the message has the nearest name), or its file is
            not valid.
    """
    return read_table(definition_path("table", name, folder))
