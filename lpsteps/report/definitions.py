"""Table definitions: which variants are the rows of a table and which benchmarks its columns.

A table is one file in ``reports/tables``. Its rows are queries for variants (a selection and a
recovery, both by their names in the methods config), its columns are benchmarks or values derived
from the benchmarks of the same table. The workflow asks :meth:`TableDefinition.variants` and
:meth:`TableDefinition.benchmarks` what there is to compute, so this module is loaded by the
Snakefile and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.errors import LpstepsError, nearest
from lpsteps.validation import validated

FOLDER = Path("reports/tables")

NO_RECOVERY = "none"


class Column(BaseModel):
    """One column of a table.

    Attributes:
        id: Name of a benchmark, or of a derived value; unique in the table.
        title: Heading, as short as in the paper.
        kind: ``benchmark``: a score. ``mean``: mean of the columns ``of``. ``retained``: mean over
            the columns ``of`` of pruned / dense, in percent. ``ratio``: share of the parameters
            removed, in percent. ``layers``: the removed layers themselves.
        unit: ``percent``, ``perplexity``, or ``layers``.
        group: Heading above neighbouring columns that share it; empty for none.
        of: Benchmark columns that a derived value is computed from.
        partial: Whether a derived value may leave out benchmarks that were not scored for the
            model at all. The cell then says how many it is over.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    kind: Literal["benchmark", "mean", "retained", "ratio", "layers"] = "benchmark"
    unit: Literal["percent", "perplexity", "layers"]
    group: str = ""
    of: tuple[str, ...] = ()
    partial: bool = False

    @property
    def higher_is_better(self) -> bool | None:
        """True for accuracies, False for perplexities, None where neither end is better."""
        if self.kind in ("ratio", "layers"):
            return None
        return self.unit == "percent"

    @model_validator(mode="after")
    def _check_of(self) -> Column:
        if bool(self.of) != (self.kind in ("mean", "retained")):
            raise ValueError(
                f"'{self.id}': `of` lists benchmarks for kind mean or retained, only there"
            )
        return self


class Row(BaseModel):
    """One row of a table: a query for a variant, asked once per pruning level.

    Attributes:
        id: Part of the cell ids; unique in the table.
        label: Text of the row heading.
        selection: Name in the methods config, None for the dense model.
        recovery: Name in the methods config.
        missing: What to say where the methods config lacks the selection or the recovery.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9+-]+$")
    label: str
    selection: str | None = None
    recovery: str = NO_RECOVERY
    missing: str | None = None

    @property
    def query(self) -> tuple[str, str] | None:
        """The selection and recovery that the row shows, None for the dense model."""
        return None if self.selection is None else (self.selection, self.recovery)


class TableDefinition(BaseModel):
    """One table of the report.

    Attributes:
        id: Name of the file without suffix.
        title: Heading.
        caption: What the numbers are, in one or two plain sentences.
        columns: In display order.
        rows: In display order. The dense row is shown once per model, the others per level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    caption: str
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_references(self) -> TableDefinition:
        _refuse_repeated("column", (column.id for column in self.columns))
        _refuse_repeated("row", (row.id for row in self.rows))
        if sum(row.selection is None for row in self.rows) > 1:
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
        return self

    @property
    def dense_row(self) -> Row | None:
        """The row of the dense model, if the table shows it."""
        return next((row for row in self.rows if row.selection is None), None)

    @property
    def pruned_rows(self) -> tuple[Row, ...]:
        """All rows but the dense one."""
        return tuple(row for row in self.rows if row.selection is not None)

    def queries(self) -> tuple[tuple[str, str] | None, ...]:
        """Return the distinct (selection, recovery) queries in row order, None for dense."""
        return tuple(dict.fromkeys(row.query for row in self.rows))

    def variants(self) -> tuple[tuple[str, str] | None, ...]:
        """Return the queries whose variants have to be built; none if only the layers are shown."""
        only_layers = all(column.kind == "layers" for column in self.columns)
        return () if only_layers else self.queries()

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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LpstepsError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())
        raise LpstepsError(f"{path}: not valid YAML ({message})") from error
    table = validated(TableDefinition, content, str(path))
    if table.id != path.stem:
        raise LpstepsError(f"{path}: id: '{table.id}': must be the file's name, '{path.stem}'")
    return table


def list_tables(folder: Path = FOLDER) -> list[str]:
    """Return the names of all table definitions, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def load_table(name: str, folder: Path = FOLDER) -> TableDefinition:
    """Read the definition of the table ``name``.

    Raises:
        LpstepsError: There is no such table (the message has the nearest name), or its file is
            not valid.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise LpstepsError(f"{path}: no such table: {nearest(name, list_tables(folder))}")
    return read_table(path)
