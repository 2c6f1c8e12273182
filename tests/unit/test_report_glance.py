"""The bars on top of the page."""

from __future__ import annotations

from typing import Any

import pytest

from lpsteps.errors import LpstepsError
from lpsteps.report.definitions import TableDefinition
from lpsteps.report.glance import glance_views
from lpsteps.validation import validated


def section(n: int, rows: dict[str, list[float | None]], kind: str = "measured") -> dict[str, Any]:
    return {
        "model": "m",
        "title": "Model",
        "n": n,
        "n_layers": 8,
        "kind": kind,
        "rows": [
            {
                "label": label,
                "kind": kind,
                "cells": [
                    None if value is None else f"t/m/n{n}/{label}/{column}"
                    for column, value in zip("ab", values, strict=True)
                ],
            }
            for label, values in rows.items()
        ],
    }


def payload(*sections: dict[str, Any], glance: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    values = {"Dense": 10.0, "Cut": 40.0, "Patch": 20.0}
    cells = [
        {
            "id": name,
            "status": "measured" if name.endswith("a") else "missing",
            "value": values[row["label"]],
            "text": f"{values[row['label']]:.2f}",
            "n_pruned": one["n"],
            "stderr": None if one["n"] == 0 else 10.0,
            "limited": one["n"] == 3,
        }
        for one in sections
        for row in one["rows"]
        for name in row["cells"]
        if name
    ]
    columns = [
        {"id": "a", "title": "Avg", "group": "Text", "higher_is_better": False},
        {"id": "b", "title": "RP", "group": "QA", "higher_is_better": True},
    ]
    tables = [
        {
            "id": "t",
            "number": 6,
            "title": "T",
            "caption": "C.",
            "glance": list(glance),
            "columns": columns,
        }
        | {"sections": list(sections)}
    ]
    return {"tables": tables, "cells": cells}


DENSE = section(0, {"Dense": [1, 1]})
FIVE = section(5, {"Cut": [1, 1], "Patch": [1, 1]})


def test_a_bar_per_row_at_the_lowest_level_where_the_column_is_measured() -> None:
    three = section(3, {"Cut": [1, 1], "Patch": [1, None]})
    [view] = glance_views(payload(DENSE, FIVE, three))
    assert (view.model, view.cut) == ("Model", "3 of 8 layers removed")
    assert (view.column, view.direction) == ("Text: Avg", "lower is better")
    assert view.table_name == "table 6"
    shown = [
        (bar.label, bar.percent, bar.whisker_start, bar.whisker_length, bar.stderr)
        for bar in view.bars
    ]
    assert shown == [
        ("Dense", 20.0, 20.0, 0.0, ""),
        ("Cut", 80.0, 60.0, 40.0, "10.00"),
        ("Patch", 40.0, 20.0, 40.0, "10.00"),
    ]
    assert [bar.dense for bar in view.bars] == [True, False, False]
    assert view.limited
    assert view.bars[1].cell == "t/m/n3/Cut/a" and view.bars[1].text == "40.00"


def test_a_column_without_a_group_goes_by_its_title_alone() -> None:
    made = payload(DENSE, FIVE)
    for column in made["tables"][0]["columns"]:
        column["group"] = ""
    [view] = glance_views(made)
    assert view.column == "Avg"


def test_a_whisker_begins_at_zero_at_the_least() -> None:
    made = payload(DENSE, FIVE)
    next(cell for cell in made["cells"] if cell["id"].endswith("Patch/a"))["stderr"] = 60.0
    [view] = glance_views(made)
    assert (view.bars[2].percent, view.bars[2].whisker_start) == (25.0, 0.0)
    assert view.bars[2].whisker_length == 100.0
    assert not view.limited


def test_bars_of_nothing_but_zeros_have_no_length() -> None:
    made = payload(DENSE, FIVE)
    for cell in made["cells"]:
        cell.update(value=0.0, stderr=0.0)
    [view] = glance_views(made)
    assert [bar.percent for bar in view.bars] == [0.0, 0.0, 0.0]


def test_nothing_to_compare_gives_no_bars() -> None:
    assert glance_views(payload(DENSE)) == []
    assert glance_views(payload(FIVE)) == []
    assert glance_views(payload(DENSE, FIVE, glance=("b",))) == []
    assert glance_views(payload(DENSE, section(5, {"Cut": [1, 1]}, kind="published"))) == []


def definition(**changes: Any) -> dict[str, Any]:
    columns = [
        {"id": "novels", "title": "Novels", "unit": "perplexity"},
        {"id": "layers", "title": "Layers", "unit": "layers", "kind": "layers"},
    ]
    rows = [{"id": "dense", "label": "Dense"}, {"id": "s", "label": "S", "selection": "sleb"}]
    return {"id": "t", "title": "T", "caption": "C.", "columns": columns, "rows": rows} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"glance": ["novel"]}, "glance: 'novel' is no column, did you mean 'novels'"),
        ({"glance": ["layers"]}, "glance: 'layers': bars need percent or perplexity"),
        (
            {"glance": ["novels"], "rows": [{"id": "s", "label": "S", "selection": "sleb"}]},
            "glance: bars stand beside that of the dense model",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], message: str) -> None:
    assert validated(TableDefinition, definition(glance=["novels"]), "t").glance == ("novels",)
    with pytest.raises(LpstepsError, match=message):
        validated(TableDefinition, definition(**changes), "t")
