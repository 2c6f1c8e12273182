"""The figures as inline SVG: heat maps, violins and lines over layers, with their numbers beside.

Colours are classes, so that the page's style sheet has them in light and dark. A heat map has few
colours, and each of them is one path, which keeps the page small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lpsteps.report.axes import BOTTOM, LEFT, RIGHT, TOP, Axes
from lpsteps.report.drawing import DASHES, WIDTH, path, rule, sample, svg, text, ticks
from lpsteps.report.formats import format_count

_HEIGHT = 290
_KEY = 24
HEAT_CLASSES = 8

Panel = Mapping[str, Any]
_BASES = {"identity": "Raw channels", "hadamard": "Hadamard basis"}


@dataclass(frozen=True)
class FigurePanelView:
    """A figure for one model, at one number of removed layers if it is about one.

    Attributes:
        model: Id of the model.
        heading: Model and removed layers, in words.
        drawings: SVG elements; none when there is nothing to draw.
        legend: Samples as SVG and what they stand for.
        caption: What the drawings show, in sentences; the reason where there are none.
        heads: Above the columns of numbers, the first above the rows' labels.
        rows: Each row's label and its numbers as text.
        sources: Paths of the files that it is drawn from.
    """

    model: str
    heading: str
    drawings: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class FigureSectionView:
    """One figure with all its panels; ``csv`` is where every drawn number stands."""

    id: str
    anchor: str
    number: str
    title: str
    caption: str
    csv: str
    panels: tuple[FigurePanelView, ...]


def figure_sections(payload: Mapping[str, Any]) -> list[FigureSectionView]:
    """Arrange all figures of ``tables.json`` for display."""
    return [
        FigureSectionView(
            id=figure["id"],
            anchor=f"drawn-{figure['id']}",
            number=f"Figure {figure['number']}" if figure["number"] is not None else "",
            title=figure["title"],
            caption=figure["caption"],
            csv=f"reports/figures/{figure['id']}.csv",
            panels=tuple(_panel_view(figure, panel) for panel in figure["panels"]),
        )
        for figure in payload["figures"]
    ]


@dataclass(frozen=True)
class _Drawn:
    """What the drawing of one kind of figure gives; the parts of a :class:`FigurePanelView`."""

    drawings: tuple[str, ...]
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    legend: tuple[tuple[str, str], ...] = ()


def _panel_view(figure: Mapping[str, Any], panel: Panel) -> FigurePanelView:
    # The id of an element; a level tells panels of one model apart.
    name = "-".join([figure["id"], panel["model"], *(str(n) for n in panel["levels"])])
    if panel["data"] is None:
        drawn = _Drawn((), f"Not drawn: {panel['reason']}.", (), ())
    else:
        drawn = _DRAW[figure["kind"]](f"drawn-{name}", panel)
    heading = panel["title"]
    if figure["kind"] != "cosine_map":
        cut = f" ({_window(panel['windows'][0])})" if panel["windows"] else ""
        heading += f", {panel['levels'][0]} of {panel['n_layers']} layers removed{cut}"
    return FigurePanelView(
        model=panel["model"],
        heading=heading,
        drawings=drawn.drawings,
        legend=drawn.legend,
        caption=drawn.caption,
        heads=drawn.heads,
        rows=drawn.rows,
        sources=tuple(source["path"] for source in panel["sources"]),
    )


def _window(cut: Sequence[int]) -> str:
    first, last = cut[0], cut[1] - 1
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _channel_magnitudes(name: str, panel: Panel) -> _Drawn:
    data = panel["data"]
    start, end = panel["windows"][0]
    heat = [
        (boundary, column, value)
        for boundary, row in enumerate(data["heat"])
        for column, value in enumerate(row)
    ]
    channels = data["bins"][-1][1]
    axes = Axes(
        height=_HEIGHT,
        x=(0, len(data["bins"])),
        y=(0, len(data["heat"])),
        x_title=f"Channel, of {channels}",
        x_ticks=[
            (tick * len(data["bins"]) / channels, f"{tick:g}") for tick in ticks(False, 0, channels)
        ],
        y_ticks=[
            (tick + 0.5, f"{tick:g}")
            for tick in ticks(False, 0, panel["n_layers"])
            if tick == int(tick)
        ],
    )
    low, high = _positive([value for _, _, value in heat])
    widest = max(heat, key=lambda cell: cell[2])
    bins = data["bins"][widest[1]]
    map_picture = svg(
        f"{name}-map",
        "Every boundary",
        "largest channel of each bin, log scale",
        f"Mean magnitude by boundary, which is the input of the layer of that number, and channel. "
        f"The largest, {widest[2]:g}, stands at boundary {widest[0]}, channels {bins[0]} to "
        f"{bins[1] - 1}; the cut leads from boundary {start} to boundary {end}.",
        _HEIGHT + _KEY,
        [
            *_cells(axes, heat, _classes(True, low, high)),
            *axes.labels(),
            *(
                rule("edge", LEFT, axes.vertical(y), WIDTH - RIGHT, axes.vertical(y))
                for y in (start, end + 1)
            ),
            *_heat_key(low, high),
        ],
    )
    ends = data["ends"]
    low, high = _positive([*ends["before"], *ends["behind"]])
    log = Axes(
        height=_HEIGHT,
        x=(0, len(ends["channels"]) - 1 or 1),
        y=(low / 1.2, high * 1.2),
        x_title="Channels, the largest in front of the cut first",
        x_ticks=[],
        log=True,
    )
    before = f"in front of layer {start}"
    behind = f"behind layer {end - 1}"
    ratios = data["ratios"]
    ends_picture = svg(
        f"{name}-ends",
        "At the cut",
        "log scale",
        f"Mean magnitude of {len(ends['channels'])} of {channels} channels {before} and {behind}. "
        f"Behind over in front: {ratios[0]:g} at 5 % of the channels, {ratios[1]:g} in the median, "
        f"{ratios[2]:g} at 95 %.",
        _HEIGHT,
        [
            *log.labels(),
            *(
                _line(log, style, list(enumerate(values)))
                for style, values in ((1, ends["behind"]), (0, ends["before"]))
            ),
        ],
    )
    rows = [
        (label, boundary, data["heat"][boundary])
        for label, boundary in ((before, start), (behind, end))
    ]
    return _Drawn(
        (map_picture, ends_picture),
        "Upwards in the map: the boundaries, each the input of the layer of its number. Lines: the "
        f"cut. In the median a channel is {ratios[1]:g} times as large {behind} as {before}; 90 % "
        f"of the channels lie between {ratios[0]:g} and {ratios[2]:g} times.",
        ("Hidden states", "Boundary", "Largest channel", "Largest channel of the smallest bin"),
        tuple(
            (label.capitalize(), (str(boundary), f"{max(values):g}", f"{min(values):g}"))
            for label, boundary, values in rows
        ),
        ((sample(0), before.capitalize()), (sample(1), behind.capitalize())),
    )


def _layer_magnitudes(name: str, panel: Panel) -> _Drawn:
    data = panel["data"]
    start, end = panel["windows"][0]
    low, high = _positive([*data["mean"], *data["largest"]])
    axes = Axes(
        height=_HEIGHT,
        x=(-0.5, panel["n_layers"] - 0.5),
        y=(low / 1.3, high * 1.3),
        x_title="Layer",
        x_ticks=[
            (tick, f"{tick:g}")
            for tick in ticks(False, 0, panel["n_layers"] - 1)
            if tick == int(tick)
        ],
        log=True,
    )
    left, right = axes.horizontal(start - 0.5), axes.horizontal(end - 0.5)
    removed = (
        f'<rect class="removed" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
        f'height="{_HEIGHT - BOTTOM - TOP}">'
        f"<title>Removed: {_window((start, end))}</title></rect>"
    )
    peak = max(range(len(data["largest"])), key=data["largest"].__getitem__)
    described = (
        f"Mean over channels: {data['mean'][0]:g} behind the first layer, {data['mean'][-1]:g} "
        f"behind the last. Largest channel: at most {data['largest'][peak]:g}, behind layer "
        f"{peak}, channel {data['channel'][peak]}. Removed: {_window((start, end))}."
    )
    picture = svg(
        f"{name}-layers",
        "Mean magnitude behind each layer",
        "log scale",
        described,
        _HEIGHT,
        [
            removed,
            *axes.labels(),
            *(
                _line(axes, style, list(enumerate(data[key])))
                for style, key in ((0, "mean"), (1, "largest"))
            ),
        ],
    )
    return _Drawn(
        (picture,),
        described,
        ("Layer", "Mean of the channels", "Largest channel", "Its number", "Removed"),
        tuple(
            (str(layer), (f"{mean:g}", f"{largest:g}", str(channel), _yes(start <= layer < end)))
            for layer, (mean, largest, channel) in enumerate(
                zip(data["mean"], data["largest"], data["channel"], strict=True)
            )
        ),
        ((sample(0), "Mean of the channels"), (sample(1), "Largest channel")),
    )


def _cosine_map(name: str, panel: Panel) -> _Drawn:
    rows = panel["data"]["cosines"]
    cells = [(n, start, value) for start, row in enumerate(rows) for n, value in enumerate(row, 1)]
    n_layers = panel["n_layers"]
    low, high = min(value for *_, value in cells), max(value for *_, value in cells)
    axes = Axes(
        height=_HEIGHT,
        x=(0, n_layers),
        y=(1, n_layers + 1),
        x_title="First layer of the window",
        x_ticks=[
            (tick + 0.5, f"{tick:g}") for tick in ticks(False, 0, n_layers - 1) if tick == int(tick)
        ],
        y_ticks=[
            (tick + 0.5, f"{tick:g}") for tick in ticks(False, 1, n_layers) if tick == int(tick)
        ],
    )
    chosen = list(zip(panel["levels"], panel["windows"], strict=True))
    frames = []
    for n, (start, _) in chosen:
        left, top = axes.horizontal(start), axes.vertical(n + 1)
        width, height = axes.horizontal(start + 1) - left, axes.vertical(n) - top
        hint = f"{n} layers from layer {start}: {rows[start][n - 1]:g}"
        frames.append(
            f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"><title>{escape(hint)}</title></rect>'
        )
    highest = max(cells, key=lambda cell: cell[2])
    described = (
        f"Cosines between {low:g} and {high:g}; the highest across {highest[0]} layers from layer "
        f"{highest[1]}. "
        + " ".join(f"Removed: {_window(cut)}, cosine {rows[cut[0]][n - 1]:g}." for n, cut in chosen)
    ).strip()
    picture = svg(
        f"{name}-map",
        "Cosine",
        "by first layer and, upwards, number of layers",
        described,
        _HEIGHT + _KEY,
        [
            *_cells(axes, cells, _classes(False, low, high)),
            *axes.labels(),
            *frames,
            *_heat_key(low, high),
        ],
    )
    return _Drawn(
        (picture,),
        described,
        ("Layers removed", "First layer", "Cosine", "Least cosine of a window that long"),
        tuple(
            (
                str(n),
                (
                    str(start),
                    f"{rows[start][n - 1]:g}",
                    f"{min(row[n - 1] for row in rows if len(row) >= n):g}",
                ),
            )
            for n, (start, _) in chosen
        ),
    )


def _token_scales(name: str, panel: Panel) -> _Drawn:
    data = panel["data"]
    bases = data["bases"]
    low = min(found["edges"][0] for found in bases.values())
    high = max(found["edges"][-1] for found in bases.values())
    axes = Axes(x=(0, len(bases)), y=(low, high), x_title="", x_ticks=[], log=True, height=_HEIGHT)
    tallest = max(max(found["counts"]) / found["count"] for found in bases.values())
    # Raw channels first, as in the paper.
    ordered = sorted(bases.items(), key=lambda entry: entry[0] != "identity")
    body = axes.labels()
    for style, (basis, found) in enumerate(ordered):
        middle = axes.horizontal(style + 0.5)
        reach = 0.45 * (axes.horizontal(1) - axes.horizontal(0)) / tallest
        outline = _outline(axes, found, middle, reach)
        quartiles = [axes.vertical(found["quantiles"][index]) for index in (1, 3)]
        median = axes.vertical(found["quantiles"][2])
        hint = f"{_BASES[basis]}: sigma_d {_spread(found['sigma'])}"
        body.append(
            f'<g class="series-{style}"><title>{escape(hint)}</title>'
            f'<path class="violin" d="{outline}"/>'
            f"{rule('bar', middle, quartiles[0], middle, quartiles[1])}"
            f'<circle class="mark" cx="{middle:.1f}" cy="{median:.1f}" r="3"/>'
            f"{text('label', middle, _HEIGHT - BOTTOM + 17, _BASES[basis], 'middle')}"
            f"{text('axis', middle, _HEIGHT - BOTTOM + 33, hint.partition(': ')[2], 'middle')}</g>"
        )
    described = "; ".join(
        f"{_BASES[basis]}: median {found['quantiles'][2]:g}, 90 % between "
        f"{found['quantiles'][0]:g} and {found['quantiles'][4]:g}, sigma_d "
        f"{_spread(found['sigma'])}"
        for basis, found in ordered
    )
    picture = svg(
        f"{name}-violins", "Ratios behind / in front", "log scale", described, _HEIGHT, body
    )
    raw, rotated = (found["sigma"] for _, found in ordered)
    caption = (
        f"{format_count(data['tokens'])} tokens in {data['windows']} windows. Violins: share of "
        "the ratios; bar and dot: quartiles and median."
    )
    if raw > 0:
        caption += (
            f" In the Hadamard basis sigma_d is {rotated / raw:.3g} times that of the raw channels."
        )
    heads: tuple[str, ...] = (
        "Basis",
        "sigma_d",
        "sigma_d without first tokens",
        "Mean",
        "Median",
        "5 %",
        "95 %",
        "Largest",
        "Ratios",
    )
    rows = []
    for basis, found in ordered:
        fifth, _, median_ratio, _, last = found["quantiles"]
        numbers = [
            _spread(found["sigma"]),
            _spread(found["others"]["sigma"]),
            *(f"{value:g}" for value in (found["mean"], median_ratio, fifth, last)),
            f"{found['largest']:g}",
            format_count(found["count"]),
        ]
        if data["printed"]:
            printed = data["printed"].get(basis)
            numbers.append(f"{printed['value']:g} ({printed['where']})" if printed else "")
        rows.append((_BASES[basis], tuple(numbers)))
    if data["printed"]:
        heads = (*heads, "sigma_d in the paper")
        values = "; ".join(
            f"{_BASES[basis]} {data['printed'][basis]['value']:g}"
            for basis, _ in ordered
            if basis in data["printed"]
        )
        caption += f" In the paper: {values}."
    return _Drawn((picture,), caption, heads, tuple(rows))


def _outline(axes: Axes, found: Mapping[str, Any], middle: float, reach: float) -> str:
    """Return the outline of a violin: the share of each bin to both sides, bottom to top and back.

    A bin stands at its middle, its ends close at the axis.
    """
    edges, counts = found["edges"], found["counts"]
    places = [
        (
            reach * count / found["count"],
            axes.vertical(math.sqrt(edges[index] * edges[index + 1])),
        )
        for index, count in enumerate(counts)
    ]
    bottom, top = axes.vertical(edges[0]), axes.vertical(edges[-1])
    corners = [
        (middle, bottom),
        *((middle + width, y) for width, y in places),
        (middle, top),
        *((middle - width, y) for width, y in reversed(places)),
    ]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "z"


def _spread(value: float) -> str:
    return f"{value:.2f}" if value < 100_000 else f"{value:.3g}"


def _yes(true: bool) -> str:
    return "yes" if true else ""


_DRAW: dict[str, Callable[[str, Panel], _Drawn]] = {
    "channel_magnitudes": _channel_magnitudes,
    "layer_magnitudes": _layer_magnitudes,
    "cosine_map": _cosine_map,
    "token_scales": _token_scales,
}


def _line(axes: Axes, style: int, points: Sequence[tuple[float, float]]) -> str:
    """Return a line through the positive values of some points, which lie on a log axis."""
    corners = [axes.place(x, value) for x, value in points if value > 0]
    return f'<g class="series-{style}">{path("path", DASHES[style], corners)}</g>'


def _positive(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the largest positive value, for a log axis."""
    positive = [value for value in values if value > 0] or [1.0]
    return min(positive), max(positive)


def _classes(log: bool, low: float, high: float) -> Callable[[float], int]:
    """Return the map from values to colours; what is not positive has the first one."""
    transform: Callable[[float], float] = math.log10 if log else float
    first, span = transform(low), transform(high) - transform(low)

    def colour(value: float) -> int:
        if span == 0 or (log and value <= 0):
            return 0
        return min(HEAT_CLASSES - 1, int(HEAT_CLASSES * (transform(value) - first) / span))

    return colour


def _cells(
    axes: Axes, cells: Sequence[tuple[int, int, float]], colour: Callable[[float], int]
) -> Iterator[str]:
    """Yield one path per colour; neighbours in a row that share it are one rectangle.

    Args:
        axes: Axes on which a cell is one unit wide and high.
        cells: Row (upwards), column and value.
        colour: From value to colour.
    """
    # Row, first column, the one behind the last, colour.
    runs: list[tuple[int, int, int, int]] = []
    for row, column, value in sorted(cells):
        first, shade = column, colour(value)
        if runs and (runs[-1][0], *runs[-1][2:]) == (row, column, shade):
            first = runs.pop()[1]
        runs.append((row, first, column + 1, shade))
    paths: list[list[str]] = [[] for _ in range(HEAT_CLASSES)]
    for row, first, last, shade in runs:
        left, right = (round(axes.horizontal(x), 1) for x in (first, last))
        top, bottom = (round(axes.vertical(y), 1) for y in (row + 1, row))
        paths[shade].append(f"M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}z")
    for shade, rectangles in enumerate(paths):
        if rectangles:
            yield f'<path class="heat heat-{shade}" d="{"".join(rectangles)}"/>'


def _heat_key(low: float, high: float) -> Iterator[str]:
    """Yield the colours from the least to the largest value, below the picture."""
    width = 12
    left = WIDTH - RIGHT - 60 - HEAT_CLASSES * width
    top = _HEIGHT + _KEY - 16
    yield text("tick", left - 6, top + 9, _three_digits(low), "end")
    for shade in range(HEAT_CLASSES):
        place = f"M{left + shade * width} {top}h{width}v10h-{width}z"
        yield f'<path class="heat heat-{shade}" d="{place}"/>'
    yield text("tick", left + HEAT_CLASSES * width + 6, top + 9, _three_digits(high), "start")


def _three_digits(value: float) -> str:
    """Return ``2240`` where the format alone gives ``2.24e+03``."""
    return f"{float(f'{value:.3g}'):g}"
