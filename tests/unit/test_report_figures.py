"""The pictures as markup: what stands where, and that no two lines look alike."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from report_example import ROOT

from lpsteps.report.definitions import MOST_LINES
from lpsteps.report.drawing import WIDTH
from lpsteps.report.figures import Line, Picture, Point, draw, figure_view

STYLE = (ROOT / "reports/templates/style.css").read_text(encoding="utf-8")


def line(style: int, values: dict[int, float], spread: float | None = None) -> Line:
    return Line(
        f"Row <{style}>",
        style,
        tuple(
            Point(n, value, f"{value:g} %", f't/m/n{n}/row{style}/"<', bounds(value, spread))
            for n, value in values.items()
        ),
    )


def bounds(value: float, spread: float | None) -> tuple[float, float] | None:
    return None if spread is None else (value - spread, value + spread)


SHARE = Picture(
    id="fig",
    title="Share & more",
    lines=(
        line(0, {3: 0.0, 5: 0.0, 7: 0.0}),
        line(1, {3: 70.0, 5: 60.0, 7: 50.0}, 5.0),
        line(2, {3: 90.0, 5: 55.0, 7: 40.0}, 5.0),
    ),
    wanted=(3, 5, 7),
    n_layers=30,
    higher_is_better=True,
    suffix=" %",
    dense=100.0,
)
PERPLEXITY = replace(
    SHARE,
    lines=(line(0, {3: 40.0, 5: 400.0}), line(1, {3: 30.0, 5: 90.0})),
    wanted=(3, 5),
    higher_is_better=False,
    log=True,
    suffix="",
    dense=20.0,
)


def parsed(picture: Picture) -> ET.Element:
    return ET.fromstring(draw(picture))


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in e.attrib.get("class", "").split()]


def place(mark: ET.Element) -> tuple[float, float]:
    found = re.match(r"translate\((\S+) (\S+)\)", mark.attrib["transform"])
    assert found
    return float(found[1]), float(found[2])


def marks(group: ET.Element) -> dict[str, tuple[float, float]]:
    return {
        child.attrib["data-cell"].split("/")[2]: place(by_class(child, "mark")[0])
        for child in group
        if "data-cell" in child.attrib
    }


def test_values_stand_at_their_place_on_a_linear_axis() -> None:
    root = parsed(SHARE)
    ticks = {
        text.text: float(text.attrib["y"]) - 4
        for text in by_class(root, "tick")
        if text.text and text.text.endswith(" %")
    }
    assert list(ticks) == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    per_percent = (ticks["100 %"] - ticks["0 %"]) / 100
    assert per_percent < 0  # upwards
    [group] = by_class(root, "series-1")
    found = marks(group)
    assert {n: round((y - ticks["0 %"]) / per_percent, 0) for n, (_, y) in found.items()} == {
        "n3": 70,
        "n5": 60,
        "n7": 50,
    }
    xs = [x for x, _ in found.values()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    [dense] = by_class(root, "dense")
    assert float(dense.attrib["y1"]) == pytest.approx(ticks["100 %"], abs=0.06)


def test_equal_ratios_are_equal_distances_on_a_log_axis() -> None:
    root = parsed(PERPLEXITY)
    ticks = {
        float(text.text): float(text.attrib["y"]) - 4
        for text in by_class(root, "tick")
        if text.attrib.get("text-anchor") == "end" and text.text and text.text != "dense"
    }
    assert list(ticks) == [20, 50, 100, 200]
    per_decade = (ticks[200] - ticks[20]) / 1
    [group] = by_class(root, "series-0")
    for n, value in (("n3", 40), ("n5", 400)):
        expected = ticks[20] + per_decade * math.log10(value / 20)
        assert marks(group)[n][1] == pytest.approx(expected, abs=0.2)
    assert "log scale, lower is better" in "".join(root.itertext())


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (23.0, 47.0, ["30", "40", "50"]),
        (9.0, 110.0, ["10", "20", "50", "100"]),
        (10.0, 1e6, ["10", "100", "1000", "10000", "100000", "1e+06"]),
        (10.0, 1e12, ["10", "1000", "100000", "1e+07", "1e+09", "1e+11"]),
    ],
)
def test_log_ticks_are_few_and_round(low: float, high: float, labels: list[str]) -> None:
    picture = replace(PERPLEXITY, lines=(line(0, {3: low, 5: high}),), dense=None)
    ticks = [
        text.text
        for text in by_class(parsed(picture), "tick")
        if text.attrib.get("text-anchor") == "end"
    ]
    assert ticks == labels


def test_the_best_at_the_deepest_cut_is_drawn_last_and_alone_with_its_interval() -> None:
    root = parsed(SHARE)
    [best] = by_class(root, "best")
    assert best.attrib["class"] == "series-1 best"  # 50 at seven layers, although 70 < 90 at three
    groups = [e for e in root if e.attrib.get("class", "").startswith("series-")]
    assert groups[-1] is best
    assert len(by_class(root, "bar")) == len(by_class(best, "bar")) == 3
    assert parsed(PERPLEXITY).find(".//*[@class='series-1 best']") is not None


def test_a_level_without_a_number_interrupts_the_line() -> None:
    gap = replace(SHARE, lines=(*SHARE.lines, line(3, {3: 10.0, 7: 20.0})))
    paths = {
        group.attrib["class"]: by_class(group, "path")[0].attrib["d"]
        for group in parsed(gap)
        if group.attrib.get("class", "").startswith("series-")
    }
    assert paths["series-3"].count("M") == 2 and "L" not in paths["series-3"]
    assert paths["series-0"].count("M") == 1 and paths["series-0"].count("L") == 2


def test_one_level_gives_dots_with_names_the_best_first() -> None:
    single = replace(
        SHARE,
        lines=(line(0, {5: 0.0}), line(1, {5: 60.0}, 5.0), line(2, {5: 75.0}, 5.0)),
    )
    root = parsed(single)
    labels = [text.text for text in by_class(root, "label")]
    assert labels == ["Row <2>", "Row <1>", "Row <0>"]
    assert [text.text for text in by_class(root, "number")] == ["75 %", "60 %", "0 %"]
    assert not by_class(root, "path")
    assert len(by_class(root, "bar")) == 2
    places = [marks(group)["n5"] for group in root if "series-" in group.attrib.get("class", "")]
    xs, ys = zip(*places, strict=True)
    assert xs[0] > xs[1] > xs[2] and ys[0] < ys[1] < ys[2]
    worst_first = replace(single, higher_is_better=False)
    assert [text.text for text in by_class(parsed(worst_first), "label")] == labels[::-1]


def test_everything_lies_inside_and_is_described() -> None:
    for picture in (SHARE, PERPLEXITY):
        root = parsed(picture)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert width == WIDTH
        for element in root.iter():
            for name, end in (("x", width), ("x1", width), ("x2", width), ("y", height)):
                if name in element.attrib:
                    assert 0 <= float(element.attrib[name]) <= end
        assert root.attrib["role"] == "img"
        title, description = root[0], root[1]
        assert root.attrib["aria-labelledby"].split() == [
            title.attrib["id"],
            description.attrib["id"],
        ]
        for shown in picture.lines:
            assert description.text and shown.label in description.text
            assert f"{shown.points[-1].text} with" in description.text


def test_lines_differ_in_colour_mark_and_dash() -> None:
    levels = {3: 50.0, 5: 40.0}
    picture = replace(SHARE, lines=tuple(line(style, levels) for style in range(MOST_LINES)))
    looks = [
        (by_class(group, "path")[0].attrib["stroke-dasharray"], by_class(group, "mark")[0].get("d"))
        for group in parsed(picture)
        if "series-" in group.attrib.get("class", "")
    ]
    assert len(looks) == MOST_LINES
    for one in zip(*looks, strict=True):
        assert len(set(one)) == MOST_LINES
    light, dark = (
        [
            re.findall(rf"--series-{style}: light-dark\((#\w+), (#\w+)\);", STYLE)[0][scheme]
            for style in range(MOST_LINES)
        ]
        for scheme in (0, 1)
    )
    for colours, paper in ((light, "#fcfbf8"), (dark, "#16181a")):
        assert len(set(colours)) == MOST_LINES
        assert min(contrast(colour, paper) for colour in colours) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_small_picture_to_the_letter() -> None:
    picture = Picture(
        id="f",
        title="T",
        lines=(Line("A", 0, (Point(1, 1.0, "1", "c1"), Point(2, 3.0, "3", "c2"))),),
        wanted=(1, 2),
        n_layers=4,
        higher_is_better=True,
    )
    assert draw(picture) == (
        '<svg role="img" aria-labelledby="f-title f-description" viewBox="0 0 360 270">'
        '<title id="f-title">T, higher is better</title>'
        '<desc id="f-description">A: 1 with 1 layers removed, 3 with 2 layers removed</desc>'
        '<text class="heading" x="0" y="14">T'
        '<tspan class="tick" dx="8">higher is better</tspan></text>'
        '<line class="grid" x1="46.0" y1="217.3" x2="346.0" y2="217.3"/>'
        '<text class="tick" x="40.0" y="221.3" text-anchor="end">1</text>'
        '<line class="grid" x1="46.0" y1="173.6" x2="346.0" y2="173.6"/>'
        '<text class="tick" x="40.0" y="177.6" text-anchor="end">1.5</text>'
        '<line class="grid" x1="46.0" y1="130.0" x2="346.0" y2="130.0"/>'
        '<text class="tick" x="40.0" y="134.0" text-anchor="end">2</text>'
        '<line class="grid" x1="46.0" y1="86.4" x2="346.0" y2="86.4"/>'
        '<text class="tick" x="40.0" y="90.4" text-anchor="end">2.5</text>'
        '<line class="grid" x1="46.0" y1="42.7" x2="346.0" y2="42.7"/>'
        '<text class="tick" x="40.0" y="46.7" text-anchor="end">3</text>'
        '<text class="tick" x="60.0" y="243.0" text-anchor="middle">1</text>'
        '<text class="tick" x="332.0" y="243.0" text-anchor="middle">2</text>'
        '<text class="axis" x="196.0" y="264.0" text-anchor="middle">Layers removed, of 4</text>'
        '<g class="series-0 best">'
        '<path class="path" stroke-dasharray="none" d="M60.0 217.3L332.0 42.7"/>'
        '<g data-cell="c1"><title>A, 1 layers removed: 1</title><path class="mark" '
        'transform="translate(60.0 217.3) scale(4.2)" d="M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z"/></g>'
        '<g data-cell="c2"><title>A, 2 layers removed: 3</title><path class="mark" '
        'transform="translate(332.0 42.7) scale(4.2)" d="M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z"/></g>'
        "</g></svg>"
    )


def a_table(
    values: dict[int, dict[str, float | None]], intervals: bool
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return a table with a figure of perplexities and shares, its sections and its cells."""
    table = {
        "id": "t",
        "columns": [
            {"id": "ppl", "unit": "perplexity", "higher_is_better": False},
            {"id": "share", "unit": "share", "higher_is_better": True},
        ],
        "figure": {
            "rows": [{"id": row, "label": row.upper()} for row in ("cut", "mend")],
            "panels": [
                {"y": "ppl", "title": "Perplexity", "scale": "log"},
                {"y": "share", "title": "Share closed", "scale": "linear"},
            ],
        },
    }
    cells: dict[str, dict[str, Any]] = {}
    for n, rows in values.items():
        for row, value in rows.items():
            for column in ("ppl", "share"):
                bounds = [1.0, 99.0] if intervals and column == "share" else None
                cells[f"t/m/n{n}/{row}/{column}"] = {
                    "id": f"t/m/n{n}/{row}/{column}",
                    "n_pruned": n,
                    "status": "missing" if value is None else "measured",
                    "value": value,
                    "text": "-" if value is None else f"{value:g}",
                    "interval": bounds,
                    "interval_text": "[1, 99]" if bounds else None,
                }
    sections = [
        {
            "model": "m",
            "n": n,
            "n_layers": 9,
            "kind": "measured",
            "rows": [
                {"id": row, "cells": [f"t/m/n{n}/{row}/{column}" for column in ("ppl", "share")]}
                for row in rows
            ],
        }
        for n, rows in values.items()
    ]
    return table, sections, cells


WHAT_BARS_ARE = (
    "are 95 % intervals over the evaluation windows alone, not over calibration texts or training "
    "seeds."
)


def test_the_caption_of_curves_says_which_line_has_bars() -> None:
    values = {3: {"cut": 40.0, "mend": 30.0}, 5: {"cut": 80.0, "mend": 50.0}}
    view = figure_view(*a_table(values, intervals=True))
    assert view.caption == (
        "In bold, the best with 5 layers removed. Perplexity: MEND, 50. "
        "Share closed: CUT, 80 [1, 99]. "
        f"In Share closed, bars, on the best line only, {WHAT_BARS_ARE}"
    )
    assert [drawing.count('class="bar"') for drawing in view.drawings] == [0, 2]
    assert "bars" not in figure_view(*a_table(values, intervals=False)).caption


def test_the_caption_of_dots_says_where_bars_are() -> None:
    values = {5: {"cut": 80.0, "mend": 50.0}}
    view = figure_view(*a_table(values, intervals=True))
    assert view.caption == (
        "With 5 layers removed, the only number of layers that was run. Best first. "
        f"In Share closed, bars {WHAT_BARS_ARE}"
    )
    assert [drawing.count('class="bar"') for drawing in view.drawings] == [0, 2]
    assert "bars" not in figure_view(*a_table(values, intervals=False)).caption


def test_levels_that_only_the_paper_prints_are_not_drawn() -> None:
    values = {3: {"cut": 40.0, "mend": 30.0}, 5: {"cut": 80.0, "mend": 50.0}}
    table, sections, cells = a_table(values, intervals=True)
    printed = {
        "model": "m",
        "n": 4,
        "n_layers": 9,
        "kind": "published",
        "rows": [{"id": "theirs", "cells": [None, "t/m/n4/theirs/share"]}],
    }
    cells["t/m/n4/theirs/share"] = {"id": "t/m/n4/theirs/share", "status": "published"}
    expected = figure_view(table, sections, cells)
    assert figure_view(table, [sections[0], printed, sections[1]], cells) == expected
    assert figure_view(table, [printed, *sections], cells) == expected


def test_a_level_that_no_row_has_a_number_at_interrupts_all_lines() -> None:
    levels = {3: 30.0, 5: None, 7: 70.0, 9: 90.0}
    values = {n: {"cut": value, "mend": value} for n, value in levels.items()}
    drawing, _ = figure_view(*a_table(values, intervals=False)).drawings
    paths = re.findall(r'class="path" stroke-dasharray="[^"]*" d="([^"]*)"', drawing)
    assert [(path.count("M"), path.count("L")) for path in paths] == [(2, 1), (2, 1)]
    assert ">5</text>" in drawing


def test_a_figure_without_numbers_says_so() -> None:
    view = figure_view(*a_table({3: {"cut": None, "mend": None}}, intervals=False))
    assert view.drawings == () and view.legend == ()
    assert view.caption == "No row of the figure has a number yet."
