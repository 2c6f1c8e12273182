"""The tables as CSV files: one line per cell, values unrounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "id",
    "row",
    "label",
    "column",
    "model",
    "n_pruned",
    "value",
    "stderr",
    "low",
    "high",
    "n",
    "total",
    "benchmarks_used",
    "benchmarks_wanted",
    "limited",
    "status",
    "published",
    "difference",
    "difference_stderr",
    "verdict",
    "reason",
    "source",
    "sha256",
    "comparisons",
    "versus_best",
    "versus_unrepaired",
)


def table_csv(payload: Mapping[str, Any], table_id: str) -> str:
    """Return one table of ``tables.json`` as CSV text, cells in display order.

    Numbers are written in full, so reading them back gives the same floats. Layer lists are
    separated by spaces. ``low`` and ``high`` bound the 95 % interval. ``comparisons``,
    ``versus_best`` and ``versus_unrepaired`` hold, as JSON, the differences from other rows with
    their intervals.
    """
    cells = {cell["id"]: cell for cell in payload["cells"]}
    table = next(table for table in payload["tables"] if table["id"] == table_id)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for section in table["sections"]:
        for row in section["rows"]:
            for cell_id in row["cells"]:
                if cell_id is not None:
                    writer.writerow(_line(cells[cell_id], row["label"]))
    return stream.getvalue()


def _line(cell: Mapping[str, Any], label: str) -> list[str]:
    source = cell["source"] or {"path": None, "sha256": None}
    low, high = cell["interval"] or (None, None)
    fields = {
        **cell,
        "label": label,
        "low": low,
        "high": high,
        "source": source["path"],
        "sha256": source["sha256"],
        "verdict": cell["verdict"]["word"] if cell["verdict"] else None,
        **{
            name: json.dumps(cell[name], sort_keys=True, ensure_ascii=False) if cell[name] else None
            for name in ("comparisons", "versus_best", "versus_unrepaired")
        },
    }
    return [_text(fields[name]) for name in COLUMNS]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value)
