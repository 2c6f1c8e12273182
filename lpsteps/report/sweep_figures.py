"""Pictures of a table whose rows stand along an axis: one line per number of removed layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lpsteps.report.drawing import DASHES, MARKS, WIDTH, rule, sample, scale, svg, text, ticks
from lpsteps.report.figures import FigureView, LegendEntry

_HEIGHT = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 34, 44

Cell = Mapping[str, Any]
Points = Sequence[tuple[float, Cell]]


def sweep_view(
    table: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
    cells: Mapping[str, Cell],
) -> FigureView:
    """Arrange the figure of a table for one model, as `lpsteps.report.figures.figure_view` does.

    Args:
        table: A table of ``tables.json`` whose figure has an axis ``x``.
        sections: The table's sections of the model, at least one of them measured.
        cells: All cells by id.
    """
    axis = table["figure"]["x"]
    columns = {column["id"]: index for index, column in enumerate(table["columns"])}
    measured = [s for s in sections if s["kind"] == "measured" and s["n"]]
    rows = sorted(axis["of"], key=axis["of"].__getitem__)
    panels = []
    for panel in table["figure"]["panels"]:
        column = columns[panel["y"]]
        lines = {
            section["n"]: {row["id"]: cells[row["cells"][column]] for row in section["rows"]}
            for section in sorted(measured, key=lambda section: int(section["n"]))
        }
        drawn = {
            n: points
            for n, line in lines.items()
            if (
                points := [
                    (axis["of"][row], line[row])
                    for row in rows
                    if line[row]["status"] == "measured"
                ]
            )
        }
        if drawn:
            panels.append((panel, lines, drawn, table["columns"][column]["higher_is_better"]))
    name = f"figure-{table['id']}-{sections[0]['model']}"
    # Several numbers of layers may be drawn in several pictures, with the same look in each.
    styles = {n: style for style, n in enumerate(sorted({n for p in panels for n in p[2]}))}
    return FigureView(
        id=name,
        drawings=tuple(
            _draw(f"{name}-{panel['y']}", panel, axis, drawn, styles, higher)
            for panel, _, drawn, higher in panels
        ),
        legend=tuple(
            LegendEntry(sample(style % len(MARKS)), f"{n} layers removed", False)
            for n, style in styles.items()
        ),
        caption=_caption(axis["title"], panels),
        heads=tuple((panel["title"], len(rows)) for panel, *_ in panels),
        levels=tuple(f"{axis['of'][row]:g}" for row in rows) * len(panels),
        rows=tuple(
            (
                f"{n} layers removed",
                tuple(lines[n][row]["text"] for _, lines, _, _ in panels for row in rows),
            )
            for n in styles
        ),
        axis=axis["title"],
    )


def _best(points: Points, higher_is_better: bool) -> tuple[float, Cell]:
    choose = max if higher_is_better else min
    return choose(points, key=lambda point: float(point[1]["value"]))


def _caption(
    title: str, panels: Sequence[tuple[Mapping[str, Any], Any, Mapping[int, Points], bool]]
) -> str:
    if not panels:
        return "No row of the figure has a number yet."
    sentences = []
    for panel, _, drawn, higher in panels:
        for n, points in drawn.items():
            x, cell = _best(points, higher)
            sentences.append(
                f"{panel['title']} with {n} layers removed: best at {title} {x:g}, {cell['text']}."
            )
    return f"Filled: the best of each line. {' '.join(sentences)}"


def _draw(
    name: str,
    panel: Mapping[str, Any],
    axis: Mapping[str, Any],
    drawn: Mapping[int, Points],
    styles: Mapping[int, int],
    higher_is_better: bool,
) -> str:
    log = panel["scale"] == "log"
    values = [cell["value"] for points in drawn.values() for _, cell in points]
    room = 0.05 * (max(values) - min(values)) or 1.0
    low = min(values) / 1.05 if log else min(values) - room
    high = max(values) * 1.05 if log else max(values) + room
    vertical = scale(log, low, high, _HEIGHT - _BOTTOM, _TOP)
    title, places = axis["title"], sorted(axis["of"].values())
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    horizontal = scale(False, places[0], places[-1], _LEFT + 14, WIDTH - _RIGHT - 14)
    body = []
    for tick in ticks(log, low, high):
        y = vertical(tick)
        body.append(rule("grid", _LEFT, y, WIDTH - _RIGHT, y))
        body.append(text("tick", _LEFT - 6, y + 4, f"{tick:g}", "end"))
    for x in places:
        body.append(text("tick", horizontal(x), _HEIGHT - _BOTTOM + 17, f"{x:g}", "middle"))
    body.append(text("axis", middle, _HEIGHT - 6, title, "middle"))
    for n, points in drawn.items():
        style = styles[n] % len(MARKS)
        corners = [(horizontal(x), vertical(cell["value"])) for x, cell in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts = [f'<path class="path" stroke-dasharray="{DASHES[style]}" d="M{path}"/>']
        best = _best(points, higher_is_better)
        for point, (left, top) in zip(points, corners, strict=True):
            x, cell = point
            hint = f"{title} {x:g}, {n} layers removed: {cell['text']}"
            look = "mark" if point is best else "mark passed"
            parts.append(
                f'<g data-cell="{escape(cell["id"])}"><title>{escape(hint)}</title>'
                f'<path class="{look}" transform="translate({left:.1f} {top:.1f}) scale(4.2)" '
                f'd="{MARKS[style]}"/></g>'
            )
        body.append(f'<g class="series-{style}">{"".join(parts)}</g>')
    direction = "higher" if higher_is_better else "lower"
    note = f"{'log scale, ' if log else ''}{direction} is better"
    described = "; ".join(
        f"{n} layers removed: " + ", ".join(f"{cell['text']} at {x:g}" for x, cell in points)
        for n, points in drawn.items()
    )
    return svg(name, panel["title"], note, described, _HEIGHT, body)
