"""Pictures of a table whose rows stand along an axis."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from lpsteps.errors import LpstepsError
from lpsteps.report.definitions import TableDefinition, load_table
from lpsteps.report.figures import FigureView
from lpsteps.report.sweep_figures import sweep_view
from lpsteps.validation import validated

ALPHAS = {"low": 0.5, "one": 1.0, "high": 2.0}


def a_view(
    values: dict[int, dict[str, float | None]], higher: bool = False, printed: bool = False
) -> FigureView:
    table = {
        "id": "t",
        "columns": [
            {"id": "unscored", "higher_is_better": higher},
            {"id": "ppl", "higher_is_better": higher},
        ],
        "figure": {
            "rows": [],
            "x": {"title": "alpha", "of": dict(reversed(ALPHAS.items()))},
            "panels": [
                {"y": "unscored", "title": "Nothing", "scale": "linear"},
                {"y": "ppl", "title": "Perplexity", "scale": "log"},
            ],
        },
    }
    cells = {
        f"t/m/n{n}/{row}/{column}": {
            "id": f"t/m/n{n}/{row}/{column}",
            "status": "missing" if value is None or column == "unscored" else "measured",
            "value": value,
            "text": "-" if value is None else f"{value:g}",
        }
        for n, rows in values.items()
        for row, value in rows.items()
        for column in ("unscored", "ppl")
    }
    sections = [
        {
            "model": "m",
            "n": n,
            "n_layers": 9,
            "kind": "measured",
            "rows": [
                {"id": row, "cells": [f"t/m/n{n}/{row}/{column}" for column in ("unscored", "ppl")]}
                for row in rows
            ],
        }
        for n, rows in values.items()
    ]
    if printed:
        name = "t/m/n5/theirs/unscored"
        cells[name] = {"id": name, "status": "published", "value": 1.0, "text": "1.0"}
        rows = next(section["rows"] for section in sections if section["n"] == 5)
        rows.append({"id": "theirs", "cells": [name, None]})
    dense = {"model": "m", "n": 0, "n_layers": 9, "kind": "measured", "rows": []}
    return sweep_view(table, [dense, *sections], cells)


VALUES: dict[int, dict[str, float | None]] = {
    5: {"low": 40.0, "one": 20.0, "high": 80.0},
    3: {"low": None, "one": 12.0, "high": 10.0},
}


def test_one_line_per_level_with_points_at_their_place() -> None:
    view = a_view(VALUES)
    [drawing] = view.drawings  # the column without a number is left out
    root = ET.fromstring(drawing)
    groups = [g for g in root if g.attrib.get("class", "").startswith("series-")]
    assert [g.attrib["class"] for g in groups] == ["series-0", "series-1"]
    places: dict[str, tuple[float, float]] = {}
    filled = []
    for mark in root.iter():
        if "data-cell" not in mark.attrib:
            continue
        path = mark[1]
        found = re.match(r"translate\((\S+) (\S+)\)", path.attrib["transform"])
        assert found
        places[mark.attrib["data-cell"]] = (float(found[1]), float(found[2]))
        if "passed" not in path.attrib["class"]:
            filled.append(mark.attrib["data-cell"])
    xs = [places[f"t/m/n5/{row}/ppl"][0] for row in ALPHAS]
    assert (xs[1] - xs[0]) * 2 == pytest.approx(xs[2] - xs[1], abs=0.3)  # 0.5 and 1 apart
    ys = [places[f"t/m/n5/{row}/ppl"][1] for row in ("one", "low", "high")]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)  # doubled each time
    assert ys[0] > ys[2]
    assert filled == ["t/m/n3/high/ppl", "t/m/n5/one/ppl"]
    assert "t/m/n3/low/ppl" not in places


def test_numbers_and_words() -> None:
    view = a_view(VALUES)
    assert view.heads == (("Perplexity", 3),) and view.levels == ("0.5", "1", "2")
    assert view.axis == "alpha"
    assert view.rows == (
        ("3 layers removed", ("-", "12", "10")),
        ("5 layers removed", ("40", "20", "80")),
    )
    assert [entry.label for entry in view.legend] == ["3 layers removed", "5 layers removed"]
    assert view.caption == (
        "Filled: the best of each line. Perplexity with 3 layers removed: best at alpha 2, 10. "
        "Perplexity with 5 layers removed: best at alpha 1, 20."
    )
    assert "best at alpha 1, 12." in a_view(VALUES, higher=True).caption


def test_a_printed_row_without_a_number_there_is_left_out() -> None:
    assert a_view(VALUES, printed=True) == a_view(VALUES)


def test_without_numbers_it_says_so() -> None:
    view = a_view({5: dict.fromkeys(ALPHAS)})
    assert view.drawings == () and view.caption == "No row of the figure has a number yet."


def test_a_single_point_is_drawn() -> None:
    [drawing] = a_view({5: {"low": None, "one": 20.0, "high": None}}).drawings
    assert drawing.count("data-cell") == 1
    ET.fromstring(drawing)


def test_a_row_without_a_number_interrupts_the_line() -> None:
    values: dict[int, dict[str, float | None]] = {
        5: {"low": 40.0, "one": None, "high": 80.0},
        3: dict.fromkeys(ALPHAS, 12.0),
    }
    [drawing] = a_view(values).drawings
    whole, broken = re.findall(r'class="path" stroke-dasharray="[^"]*" d="([^"]*)"', drawing)
    assert (whole.count("M"), whole.count("L")) == (1, 2)
    assert (broken.count("M"), broken.count("L")) == (2, 0)
    assert drawing.count("data-cell") == 5
    assert "5 layers removed: 40 at 0.5, 80 at 2" in drawing


def a_definition(figure: dict[str, Any]) -> TableDefinition:
    rows = [{"id": name, "label": name, "selection": "s", "recovery": name} for name in ALPHAS]
    content = {
        "id": "t",
        "title": "T",
        "caption": "C",
        "columns": [{"id": "ppl", "title": "P", "unit": "perplexity"}],
        "rows": rows,
        "figure": {"panels": [{"y": "ppl", "title": "P", "scale": "log"}]} | figure,
    }
    return validated(TableDefinition, content, "t.yaml")


def test_a_figure_has_lines_or_an_axis() -> None:
    axis = {"title": "alpha", "of": ALPHAS}
    figure = a_definition({"x": axis}).figure
    assert figure is not None and figure.drawn_rows == tuple(ALPHAS)
    for wrong in ({}, {"x": axis, "rows": {"low": "Low"}}):
        with pytest.raises(LpstepsError, match="give either `rows`, one line each, or `x`"):
            a_definition(wrong)
    with pytest.raises(LpstepsError, match="x: two rows stand at the same place"):
        a_definition({"x": {"title": "alpha", "of": {"low": 1, "one": 1}}})
    with pytest.raises(LpstepsError, match="'lowest' is no pruned row, did you mean 'low'"):
        a_definition({"x": {"title": "alpha", "of": {"lowest": 1, "one": 2}}})


def test_the_rows_of_the_perturbed_scales_are_what_they_say() -> None:
    """Each row's factor on the axis, in its label and in its method's parameters."""
    import yaml
    from report_example import ROOT

    table = load_table("alpha", ROOT / "reports/tables")
    recoveries = yaml.safe_load((ROOT / "config/methods.yaml").read_text())["recoveries"]
    assert table.figure is not None and table.figure.x is not None
    for row, alpha in table.figure.x.of.items():
        entry = recoveries[table.row(row).recovery]
        assert entry["method"] == "channel_scale"
        assert entry.get("params", {}).get("alpha", 1) == alpha
        assert table.row(row).label.startswith(f"alpha = {alpha:g}")
