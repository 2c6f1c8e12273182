"""The figures as markup: what stands where, and what is said of it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from report_example import ROOT

from lpsteps.report.drawing import WIDTH
from lpsteps.report.figure_data import (
    Magnitudes,
    channel_magnitudes,
    cosine_map,
    layer_magnitudes,
    token_scales,
)
from lpsteps.report.figure_drawings import HEAT_CLASSES, FigurePanelView, figure_sections
from lpsteps.token_scales import Ratios, ScalesFile, TokenScales

LAYERS, CHANNELS = 6, 40
CUT = (2, 4)
GENERATOR = np.random.default_rng(0)
FOUND = Magnitudes(
    np.exp(GENERATOR.normal(0, 1, (LAYERS + 1, CHANNELS))),
    GENERATOR.uniform(0.2, 1, (LAYERS + 1, LAYERS + 1)),
)
SCALES = ScalesFile(
    *CUT,
    1e-6,
    4,
    400,
    {
        "identity": TokenScales(
            Ratios.of(np.array([500.0] * 4)), Ratios.of(np.exp(GENERATOR.normal(0, 2, 396)))
        ),
        "hadamard": TokenScales(
            Ratios.of(np.array([2.0] * 4)), Ratios.of(np.exp(GENERATOR.normal(0, 1, 396)))
        ),
    },
)
STYLE = (ROOT / "reports/templates/style.css").read_text(encoding="utf-8")


def section(kind: str, data: dict[str, Any] | None, levels: list[int], **changes: Any) -> Any:
    panel = {
        "model": "m",
        "title": "Model <M>",
        "n_layers": LAYERS,
        "levels": levels,
        "windows": [list(CUT)] * len(levels),
        "data": data,
        "reason": None,
        "sources": [{"path": "results/m/stats.parquet", "sha256": "0" * 64}],
    }
    figure = {"id": "f", "number": None, "title": "T", "caption": "C", "kind": kind}
    [found] = figure_sections({"figures": [figure | {"panels": [panel | changes]}]})
    return found


def view(kind: str, data: dict[str, Any], levels: list[int], **changes: Any) -> FigurePanelView:
    [panel] = section(kind, data, levels, **changes).panels
    return panel


VIEWS = {
    "channels": view("channel_magnitudes", channel_magnitudes(FOUND, *CUT), [2]),
    "layers": view("layer_magnitudes", layer_magnitudes(FOUND), [2]),
    "cosines": view("cosine_map", cosine_map(FOUND), [2]),
    "scales": view("token_scales", {**token_scales(SCALES), "printed": {}}, [2]),
}


def drawings(name: str) -> list[ET.Element]:
    return [ET.fromstring(drawing) for drawing in VIEWS[name].drawings]


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in e.attrib.get("class", "").split()]


def rectangles(root: ET.Element) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Colour, left, top, right and bottom of each, without the key."""
    found = []
    for path in by_class(root, "heat"):
        colour = int(path.attrib["class"].rpartition("-")[2])
        for place in re.findall(r"M(\S+) (\S+)H(\S+)V(\S+)H", path.attrib["d"]):
            left, top, right, bottom = map(float, place)
            found.append((colour, (left, top, right, bottom)))
    return found


@pytest.mark.parametrize("name", VIEWS)
def test_everything_lies_inside_and_is_described(name: str) -> None:
    roots = drawings(name)
    ids = [
        element.attrib["id"] for root in roots for element in root.iter() if "id" in element.attrib
    ]
    assert len(set(ids)) == len(ids) == 2 * len(roots)
    for root in roots:
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert (width, root.attrib["role"]) == (WIDTH, "img")
        assert root.attrib["aria-labelledby"].split() == [
            root[0].attrib["id"],
            root[1].attrib["id"],
        ]
        assert root[1].text and len(root[1].text) > 40
        for element in root.iter():
            for key, end in (("x", width), ("x1", width), ("x2", width), ("y", height)):
                if key in element.attrib:
                    assert -1 <= float(element.attrib[key]) <= end
    assert VIEWS[name].rows and len(VIEWS[name].heads) == 1 + len(VIEWS[name].rows[0][1])


@pytest.mark.parametrize("name", ["channels", "cosines"])
def test_the_cells_of_a_map_tile_it_without_overlap(name: str) -> None:
    found = rectangles(drawings(name)[0])
    area = sum((right - left) * (bottom - top) for _, (left, top, right, bottom) in found)
    left, right = min(r[1][0] for r in found), max(r[1][2] for r in found)
    top, bottom = min(r[1][1] for r in found), max(r[1][3] for r in found)
    # All windows of six layers: 21 of the 36 pairs of a start and a number of layers.
    share = 21 / 36 if name == "cosines" else 1.0
    assert area == pytest.approx(share * (right - left) * (bottom - top), rel=0.01)
    assert (left, right) == (46, WIDTH - 14)


def test_the_colour_of_a_cell_is_that_of_its_value() -> None:
    cosines = cosine_map(FOUND)["cosines"]
    values = [value for row in cosines for value in row]
    low, high = min(values), max(values)
    found = rectangles(drawings("cosines")[0])
    width = (WIDTH - 14 - 46) / LAYERS
    for start, row in enumerate(cosines):
        for n, value in enumerate(row, start=1):
            x = 46 + (start + 0.5) * width
            height = (290 - 44 - 34) / LAYERS
            y = 290 - 44 - (n - 0.5) * height
            [colour] = [
                c
                for c, (left, top, right, bottom) in found
                if left < x < right and top < y < bottom
            ]
            exact = HEAT_CLASSES * (value - low) / (high - low)
            assert colour in {min(HEAT_CLASSES - 1, int(exact)), int(exact - 1e-9)}
    shown = [text.text for text in by_class(drawings("cosines")[0], "tick")]
    assert shown[-2:] == [f"{low:.3g}", f"{high:.3g}"]


def test_the_key_of_a_map_has_no_powers_of_ten() -> None:
    data = channel_magnitudes(FOUND, *CUT)
    data["heat"][0][0], data["heat"][1][1] = 0.0123, 2237.9
    root = ET.fromstring(view("channel_magnitudes", data, [2]).drawings[0])
    assert [text.text for text in by_class(root, "tick")][-2:] == ["0.0123", "2240"]


def test_the_removed_window_is_framed() -> None:
    root = drawings("cosines")[0]
    [frame] = by_class(root, "frame")
    width, height = (WIDTH - 14 - 46) / LAYERS, (290 - 44 - 34) / LAYERS
    assert float(frame.attrib["x"]) == pytest.approx(46 + CUT[0] * width, abs=0.06)
    assert float(frame.attrib["y"]) == pytest.approx(290 - 44 - 2 * height, abs=0.06)
    value = cosine_map(FOUND)["cosines"][2][1]
    assert frame[0].text == f"2 layers from layer 2: {value:g}"
    [(label, numbers)] = VIEWS["cosines"].rows
    assert label == "2" and numbers[:2] == ("2", f"{value:g}")
    assert VIEWS["cosines"].heading == "Model <M>"
    empty = view("cosine_map", cosine_map(FOUND), [])
    assert "frame" not in empty.drawings[0] and empty.rows == ()


def test_the_lines_at_the_cut_follow_their_channels() -> None:
    """Equal ratios are equal distances, and both lines share their axis."""
    data = channel_magnitudes(FOUND, *CUT)["ends"]
    root = drawings("channels")[1]
    places = {}
    for style in (0, 1):
        [group] = by_class(root, f"series-{style}")
        path = by_class(group, "path")[0].attrib["d"]
        places[style] = [tuple(map(float, p.split())) for p in re.split("[ML]", path)[1:]]
    heights = [y for style in (0, 1) for _, y in places[style]]
    logs = [math.log10(value) for value in (*data["before"], *data["behind"])]
    slope, start = np.polyfit(logs, heights, 1)
    assert slope < 0
    np.testing.assert_allclose(heights, start + slope * np.array(logs), atol=0.06)
    assert [x for x, _ in places[0]] == sorted({x for x, _ in places[1]})
    assert [label for _, label in VIEWS["channels"].legend] == [
        "In front of layer 2",
        "Behind layer 3",
    ]


def test_removed_layers_are_grey() -> None:
    root = drawings("layers")[0]
    [removed] = by_class(root, "removed")
    width = (WIDTH - 14 - 46) / LAYERS
    assert float(removed.attrib["x"]) == pytest.approx(46 + 2 * width, abs=0.06)
    assert float(removed.attrib["width"]) == pytest.approx(2 * width, abs=0.06)
    assert removed[0].text == "Removed: layers 2 to 3"
    gone = [label for label, numbers in VIEWS["layers"].rows if numbers[-1] == "yes"]
    assert gone == ["2", "3"] and len(VIEWS["layers"].rows) == LAYERS
    assert VIEWS["layers"].heading == "Model <M>, 2 of 6 layers removed (layers 2 to 3)"


def test_violins_are_as_wide_as_their_share_and_as_spread_as_their_ratios() -> None:
    root = drawings("scales")[0]
    data = token_scales(SCALES)["bases"]
    tallest = max(max(found["counts"]) / found["count"] for found in data.values())
    for style, basis in enumerate(("identity", "hadamard")):
        [group] = by_class(root, f"series-{style}")
        [violin] = by_class(group, "violin")
        corners = [
            tuple(map(float, p.split())) for p in re.split("[MLz]", violin.attrib["d"])[1:-1]
        ]
        middle = corners[0][0]
        found = data[basis]
        half = len(found["counts"])
        widths = [x - middle for x, _ in corners[1 : half + 1]]
        expected = [0.45 * 150 * count / found["count"] / tallest for count in found["counts"]]
        assert widths == pytest.approx(expected, abs=0.11)
        mirrored = [middle - x for x, _ in reversed(corners[half + 2 :])]
        assert mirrored == pytest.approx(widths, abs=0.21)
        ys = [y for _, y in corners[: half + 2]]
        assert ys == sorted(ys, reverse=True)
        assert f"sigma_d {found['sigma']:.2f}" in "".join(group.itertext())
    assert [label for label, _ in VIEWS["scales"].rows] == ["Raw channels", "Hadamard basis"]
    assert "sigma_d in the paper" not in VIEWS["scales"].heads


def test_printed_spreads_stand_beside_the_measured_ones() -> None:
    printed = {"hadamard": {"value": 230.32, "where": "section 3.3"}}
    found = view("token_scales", {**token_scales(SCALES), "printed": printed}, [2])
    assert found.heads[-1] == "sigma_d in the paper"
    assert [numbers[-1] for _, numbers in found.rows] == ["", "230.32 (section 3.3)"]
    assert found.caption.endswith("In the paper: Hadamard basis 230.32.")


def test_what_cannot_be_drawn_says_why() -> None:
    found = section("layer_magnitudes", None, [2], windows=[], reason="stats.parquet: was changed")
    assert (found.anchor, found.number, found.csv) == ("drawn-f", "", "reports/figures/f.csv")
    [panel] = found.panels
    assert panel.drawings == () and panel.rows == ()
    assert panel.caption == "Not drawn: stats.parquet: was changed."
    assert panel.heading == "Model <M>, 2 of 6 layers removed"


def rendered(found: Any) -> ET.Element:
    """The first panel of a figure through the page's template, which has to be well-formed."""
    environment = Environment(
        loader=FileSystemLoader(ROOT / "reports/templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    macros = environment.get_template("figure.html.j2").module
    return ET.fromstring(str(macros.figure_panel(found, found.panels[0])))  # type: ignore[attr-defined]


def test_the_page_has_drawings_words_and_numbers() -> None:
    figure = rendered(section("layer_magnitudes", layer_magnitudes(FOUND), [2]))
    panel = VIEWS["layers"]
    assert figure.attrib["aria-label"] == f"T, {panel.heading}"
    assert [caption.text for caption in figure.iter("figcaption")] == [panel.caption]
    assert len([svg for svg in figure.iter("svg") if "role" in svg.attrib]) == 1
    heads, *rows = ([cell.text or "" for cell in row] for row in figure.iter("tr"))
    assert tuple(heads) == panel.heads
    assert [(row[0], tuple(row[1:])) for row in rows] == list(panel.rows)
    files = [code.text for code in figure.iter("code")]
    assert files == ["reports/figures/f.csv", "results/m/stats.parquet"]


def test_the_page_says_why_there_is_no_drawing() -> None:
    figure = rendered(section("layer_magnitudes", None, [2], windows=[], reason="gone"))
    assert [caption.text for caption in figure.iter("figcaption")] == ["Not drawn: gone."]
    assert not list(figure.iter("svg")) and not list(figure.iter("details"))


def test_silent_channels_do_not_break_a_log_axis() -> None:
    silent = Magnitudes(np.where(FOUND.channels > 2, 0.0, FOUND.channels), FOUND.cosines)
    data = channel_magnitudes(silent, *CUT)
    assert 0.0 in data["ends"]["before"]
    for drawing in view("channel_magnitudes", data, [2]).drawings:
        ET.fromstring(drawing)
    for drawing in view("layer_magnitudes", layer_magnitudes(silent), [2]).drawings:
        ET.fromstring(drawing)


def test_every_colour_of_a_map_has_a_style() -> None:
    shades = [
        float(re.search(rf"\.heat-{shade} {{ fill-opacity: ([\d.]+); }}", STYLE)[1])  # type: ignore[index]
        for shade in range(HEAT_CLASSES)
    ]
    assert shades == sorted(set(shades)) and shades[-1] == 1
    for name in ("violin", "removed", "frame", "edge", "heat"):
        assert f".chart .{name} {{" in STYLE
