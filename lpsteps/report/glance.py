"""The paper's claim in a picture: what a cut costs and how much of it each repair brings back.

A table names the columns for it (`glance` in its definition); the top of the page shows them as a
bar for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cells = Mapping[str, Mapping[str, Any]]

_DIRECTIONS = {True: "higher is better", False: "lower is better", None: ""}


@dataclass(frozen=True)
class BarView:
    """One row's number.

    Attributes:
        cell: Id of the cell.
        label: What the row is.
        text: The number.
        stderr: Its standard error, empty if unknown.
        percent: Length, of the column's longest bar with its standard error.
        whisker_start: Where the number less its standard error ends, at zero at the least.
        whisker_length: From there to the number and its standard error.
        dense: Whether it is that of the dense model.
    """

    cell: str
    label: str
    text: str
    stderr: str
    percent: float
    whisker_start: float
    whisker_length: float
    dense: bool


@dataclass(frozen=True)
class GlanceView:
    """One column of one model at one number of removed layers.

    `limited` says whether some of its numbers rest on a part of the documents, `caption` what the
    rows of the table are.
    """

    model: str
    cut: str
    column: str
    direction: str
    limited: bool
    table: str
    table_name: str
    caption: str
    bars: tuple[BarView, ...]


def glance_views(payload: Mapping[str, Any]) -> list[GlanceView]:
    """Return the pictures for the top of the page, those of the lowest level of each model.

    A column that has no number beside the dense one, or no dense one, gives none.

    Args:
        payload: Content of ``tables.json``.
    """
    cells = {cell["id"]: cell for cell in payload["cells"]}
    views = []
    for table in payload["tables"]:
        sections = [section for section in table["sections"] if section["kind"] == "measured"]
        for model in dict.fromkeys(section["model"] for section in sections):
            own = [section for section in sections if section["model"] == model]
            pruned = [section for section in own if section["n"] > 0]
            dense = [section for section in own if section["n"] == 0]
            if not pruned or not dense:
                continue
            section = min(pruned, key=lambda one: int(one["n"]))
            rows = [*dense[0]["rows"], *section["rows"]]
            for index, column in enumerate(table["columns"]):
                if column["id"] not in table["glance"]:
                    continue
                bars = _bars(rows, index, cells)
                if len(bars) > 1 and bars[0].dense:
                    views.append(
                        GlanceView(
                            model=section["title"],
                            cut=f"{section['n']} of {section['n_layers']} layers removed",
                            column=": ".join(filter(None, (column["group"], column["title"]))),
                            direction=_DIRECTIONS[column["higher_is_better"]],
                            limited=any(cells[bar.cell]["limited"] for bar in bars),
                            table=table["id"],
                            table_name=f"table {table['number']}"
                            if table["number"] is not None
                            else table["title"],
                            caption=table["caption"],
                            bars=bars,
                        )
                    )
    return views


def _bars(rows: Sequence[Mapping[str, Any]], index: int, cells: Cells) -> tuple[BarView, ...]:
    found = [
        (row, cells[name])
        for row in rows
        if row["kind"] == "measured" and (name := row["cells"][index]) is not None
    ]
    shown = [(row, cell) for row, cell in found if cell["status"] == "measured"]
    errors = [cell["stderr"] or 0.0 for _, cell in shown]
    ends = [cell["value"] + error for (_, cell), error in zip(shown, errors, strict=True)]
    longest = max(ends, default=0.0) or 1.0

    def percent(length: float) -> float:
        return round(100 * length / longest, 1)

    bars = []
    for (row, cell), error, end in zip(shown, errors, ends, strict=True):
        start = max(0.0, cell["value"] - error)
        bars.append(
            BarView(
                cell=cell["id"],
                label=row["label"],
                text=cell["text"],
                stderr="" if cell["stderr"] is None else f"{cell['stderr']:.2f}",
                percent=percent(cell["value"]),
                whisker_start=percent(start),
                whisker_length=percent(end - start),
                dense=cell["n_pruned"] == 0,
            )
        )
    return tuple(bars)
