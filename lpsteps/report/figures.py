"""Pictures of a table as inline SVG: one line per row against the number of removed layers.

With a single number of layers there is no line to draw, so the rows stand below one another, the
best first, as dots with their intervals. Lines differ in colour, mark and dash. Colours are
classes, so that the page's style sheet has them in light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpsteps.report.axes import LEFT, RIGHT, TOP, Axes
from lpsteps.report.drawing import (
    DASHES,
    WIDTH,
    cell_mark,
    direction,
    domain,
    path,
    rule,
    sample,
    scale,
    svg,
    text,
    ticks,
)

_ROW = 38


@dataclass(frozen=True)
class Point:
    """One number of a picture.

    Attributes:
        n: Removed layers.
        value: The number.
        text: The number as the table shows it.
        cell: Id of its cell.
        bounds: Its interval, where it has one.
    """

    n: int
    value: float
    text: str
    cell: str
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """The numbers of one row, by ascending number of layers; ``style`` counts from 0."""

    label: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Attributes:
        id: Unique in the page.
        title: What the numbers are.
        lines: One per row that has numbers.
        wanted: The numbers of removed layers that there could be something to show for, ascending.
        n_layers: Layers of the dense model.
        higher_is_better: Which end of the axis is the good one.
        log: Whether the axis is logarithmic.
        suffix: Behind each number of the axis.
        dense: Value of the dense model, where known.
    """

    id: str
    title: str
    lines: tuple[Line, ...]
    wanted: tuple[int, ...]
    n_layers: int
    higher_is_better: bool
    log: bool = False
    suffix: str = ""
    dense: float | None = None

    @property
    def levels(self) -> list[int]:
        """The numbers of removed layers that there is something to show for, ascending."""
        return sorted({point.n for line in self.lines for point in line.points})

    @property
    def is_curve(self) -> bool:
        """Whether there are several numbers of layers, so that lines can be drawn."""
        return len(self.levels) > 1

    @property
    def has_bars(self) -> bool:
        """Whether intervals are drawn: curves have only those of the best line, dots have all."""
        return any(
            point.bounds is not None
            for line in self.lines
            if line is self.best or not self.is_curve
            for point in line.points
        )

    @property
    def best(self) -> Line | None:
        """The line with the best number where the most layers are removed."""
        last = [
            (point.value, line)
            for line in self.lines
            for point in line.points
            if point.n == self.levels[-1]
        ]
        choose: Callable[..., tuple[float, Line]] = max if self.higher_is_better else min
        return choose(last, key=lambda pair: pair[0])[1] if last else None


@dataclass(frozen=True)
class LegendEntry:
    """A line of the legend: its sample as SVG, its label, whether it is the best of a picture."""

    sample: str
    label: str
    best: bool


@dataclass(frozen=True)
class FigureView:
    """A figure of the page.

    Attributes:
        id: Unique in the page.
        drawings: SVG elements; none when no row has a number.
        legend: One entry per line; empty where the drawings name each row themselves.
        caption: What the drawings show, in sentences.
        heads: Above the columns of numbers: what they are, and how many columns that spans.
        levels: Removed layers of each column, or what the axis has in their place.
        rows: Each row's label and its numbers as text.
        axis: What the levels are.
    """

    id: str
    drawings: tuple[str, ...]
    legend: tuple[LegendEntry, ...]
    caption: str
    heads: tuple[tuple[str, int], ...]
    levels: tuple[int | str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    axis: str = "Layers removed"


def figure_view(
    table: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
    cells: Mapping[str, Mapping[str, Any]],
) -> FigureView:
    """Arrange the figure of a table for one model.

    Sections that the paper prints at other levels have rows of their own and are not drawn.

    Args:
        table: A table of ``tables.json`` with a figure.
        sections: The table's sections of the model, at least one of them measured.
        cells: All cells by id.
    """
    sections = [section for section in sections if section["kind"] == "measured"]
    columns = [column["id"] for column in table["columns"]]
    levels = sorted(section["n"] for section in sections if section["n"])
    found = {
        (row["id"], section["n"], column): cells[name]
        for section in sections
        for row in section["rows"]
        for column, name in zip(columns, row["cells"], strict=True)
        if name is not None
    }
    dense = next((row["id"] for s in sections if s["n"] == 0 for row in s["rows"]), None)
    # A profile may score only some of the columns.
    panels = [
        panel
        for panel in table["figure"]["panels"]
        if any(
            found[row["id"], n, panel["y"]]["status"] == "measured"
            for row in table["figure"]["rows"]
            for n in levels
        )
    ]
    pictures = []
    for panel in panels:
        column = table["columns"][columns.index(panel["y"])]
        reference = found.get((dense, 0, panel["y"]))
        lines = [
            Line(
                row["label"],
                style,
                tuple(
                    _point(found[row["id"], n, panel["y"]])
                    for n in levels
                    if found[row["id"], n, panel["y"]]["status"] == "measured"
                ),
            )
            for style, row in enumerate(table["figure"]["rows"])
        ]
        pictures.append(
            Picture(
                id=f"figure-{table['id']}-{sections[0]['model']}-{panel['y']}",
                title=panel["title"],
                lines=tuple(line for line in lines if line.points),
                wanted=tuple(levels),
                n_layers=sections[0]["n_layers"],
                higher_is_better=column["higher_is_better"],
                log=panel["scale"] == "log",
                suffix=" %" if column["unit"] == "share" else "",
                dense=reference["value"] if reference else None,
            )
        )
    return FigureView(
        id=f"figure-{table['id']}-{sections[0]['model']}",
        drawings=tuple(draw(picture) for picture in pictures if picture.lines),
        legend=_legend(table["figure"]["rows"], pictures),
        caption=_caption(pictures),
        heads=tuple((picture.title, len(levels)) for picture in pictures),
        levels=tuple(levels) * len(pictures),
        rows=tuple(
            (
                row["label"],
                tuple(found[row["id"], n, panel["y"]]["text"] for panel in panels for n in levels),
            )
            for row in table["figure"]["rows"]
        ),
    )


def _point(cell: Mapping[str, Any]) -> Point:
    text, bounds = cell["text"], cell["interval"]
    return Point(
        n=cell["n_pruned"],
        value=cell["value"],
        text=f"{text} {cell['interval_text']}" if bounds else text,
        cell=cell["id"],
        bounds=(bounds[0], bounds[1]) if bounds else None,
    )


def _legend(
    rows: Sequence[Mapping[str, str]], pictures: Sequence[Picture]
) -> tuple[LegendEntry, ...]:
    # Dots have their names beside them.
    drawn = {line.style for picture in pictures if picture.is_curve for line in picture.lines}
    best = {line.style for picture in pictures if (line := picture.best)}
    return tuple(
        LegendEntry(sample(style), row["label"], style in best)
        for style, row in enumerate(rows)
        if style in drawn
    )


def _caption(pictures: Sequence[Picture]) -> str:
    levels = sorted({n for picture in pictures for n in picture.levels})
    winners = [
        f"{picture.title}: {line.label}, {line.points[-1].text}."
        for picture in pictures
        if (line := picture.best)
    ]
    if not winners:
        return "No row of the figure has a number yet."
    if len(levels) == 1:
        text = (
            f"With {levels[0]} layers removed, the only number of layers that was run. Best first."
        )
    else:
        text = f"In bold, the best with {levels[-1]} layers removed. {' '.join(winners)}"
    barred = [picture for picture in pictures if picture.has_bars]
    if not barred:
        return text
    where = " and ".join(picture.title for picture in barred)
    bars = "bars, on the best line only," if barred[0].is_curve else "bars"
    return (
        f"{text} In {where}, {bars} are 95 % intervals over the evaluation windows alone, not over "
        "calibration texts or training seeds."
    )


def draw(picture: Picture) -> str:
    """Return a picture with at least one line as an SVG element, ``WIDTH`` units wide."""
    return _curves(picture) if picture.is_curve else _dots(picture)


def _curves(picture: Picture) -> str:
    best = picture.best
    bounds = [
        bound
        for line in picture.lines
        for point in line.points
        for bound in (point.value, *(point.bounds or () if line is best else ()))
    ]
    levels = picture.wanted
    axes = Axes(
        x=(levels[0], levels[-1]),
        y=_domain(picture, bounds),
        x_title=f"Layers removed, of {picture.n_layers}",
        x_ticks=[(n, str(n)) for n in levels],
        log=picture.log,
        inset=14,
        suffix=picture.suffix,
    )
    body = axes.labels()
    if picture.dense is not None:
        y = axes.vertical(picture.dense)
        body.append(rule("dense", LEFT, y, WIDTH - RIGHT, y))
        body.append(text("tick", WIDTH - RIGHT, y - 4, "dense", "end"))
    for line in sorted(picture.lines, key=lambda line: line is best):
        corners = {point.n: axes.place(point.n, point.value) for point in line.points}
        # A level without a number interrupts the line.
        marks = [path("path", DASHES[line.style], [corners.get(n) for n in levels])]
        for point in line.points:
            x, y = corners[point.n]
            if line is best and point.bounds:
                ends = [axes.vertical(bound) for bound in point.bounds]
                marks.append(rule("bar", x, ends[0], x, ends[1]))
            marks.append(_mark(line, point, x, y))
        emphasis = " best" if line is best else ""
        body.append(f'<g class="series-{line.style}{emphasis}">{"".join(marks)}</g>')
    return _svg(picture, axes.height, body)


def _dots(picture: Picture) -> str:
    rows = sorted(
        picture.lines,
        key=lambda line: line.points[0].value,
        reverse=picture.higher_is_better,
    )
    values = [line.points[0].value for line in rows]
    values += [bound for line in rows for bound in line.points[0].bounds or ()]
    low, high = _domain(picture, values)
    horizontal = scale(picture.log, low, high, 12, WIDTH - 12)
    bottom = TOP + 12 + _ROW * len(rows)
    body = []
    for tick in ticks(picture.log, low, high):
        x = horizontal(tick)
        body.append(rule("grid", x, TOP, x, bottom))
        body.append(text("tick", x, bottom + 16, f"{tick:g}{picture.suffix}", "middle"))
    if picture.dense is not None:
        x = horizontal(picture.dense)
        anchor = "start" if x < WIDTH / 2 else "end"
        body.append(rule("dense", x, TOP, x, bottom))
        body.append(text("tick", x + (4 if anchor == "start" else -4), TOP + 6, "dense", anchor))
    for number, line in enumerate(rows):
        point = line.points[0]
        top = TOP + 12 + _ROW * number
        x, y = horizontal(point.value), top + 26
        parts = [
            text("label", 0, top + 14, line.label, "start"),
            text("number", WIDTH, top + 14, point.text, "end"),
        ]
        if point.bounds:
            ends = [horizontal(bound) for bound in point.bounds]
            parts.append(rule("bar", ends[0], y, ends[1], y))
        parts.append(_mark(line, point, x, y))
        emphasis = " best" if line is picture.best else ""
        body.append(f'<g class="series-{line.style}{emphasis}">{"".join(parts)}</g>')
    return _svg(picture, bottom + 24, body)


def _svg(picture: Picture, height: int, body: Sequence[str]) -> str:
    described = "; ".join(
        f"{line.label}: "
        + ", ".join(f"{point.text} with {point.n} layers removed" for point in line.points)
        for line in picture.lines
    )
    note = direction(picture.log, picture.higher_is_better)
    return svg(picture.id, picture.title, note, described, height, body)


def _mark(line: Line, point: Point, x: float, y: float) -> str:
    hint = f"{line.label}, {point.n} layers removed: {point.text}"
    return cell_mark(point.cell, hint, line.style, x, y)


def _domain(picture: Picture, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis: the values, the dense model, and some room."""
    shown = [*values, *([picture.dense] if picture.dense is not None else [])]
    return domain(picture.log, shown, factor=1.1)
