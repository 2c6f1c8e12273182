"""Pictures of a table whose rows stand along an axis: one line per number of removed layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lpsteps.report.axes import Axes
from lpsteps.report.drawing import DASHES, MARKS, cell_mark, direction, domain, path, sample, svg
from lpsteps.report.figures import FigureView, LegendEntry

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
            section["n"]: {
                row["id"]: cells[name]
                for row in section["rows"]
                # A printed row that none of ours matches has gaps where the paper prints nothing.
                if (name := row["cells"][column]) is not None
            }
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
    title, places = axis["title"], sorted(axis["of"].values())
    axes = Axes(
        x=(places[0], places[-1]),
        y=domain(log, [cell["value"] for points in drawn.values() for _, cell in points]),
        x_title=title,
        x_ticks=[(x, f"{x:g}") for x in places],
        log=log,
        inset=14,
    )
    body = axes.labels()
    for n, points in drawn.items():
        style = styles[n] % len(MARKS)
        corners = {x: axes.place(x, cell["value"]) for x, cell in points}
        # A row without a number interrupts the line.
        parts = [path("path", DASHES[style], [corners.get(x) for x in places])]
        best = _best(points, higher_is_better)
        for point in points:
            x, cell = point
            hint = f"{title} {x:g}, {n} layers removed: {cell['text']}"
            look = "mark" if point is best else "mark passed"
            parts.append(cell_mark(cell["id"], hint, style, *corners[x], look))
        body.append(f'<g class="series-{style}">{"".join(parts)}</g>')
    described = "; ".join(
        f"{n} layers removed: " + ", ".join(f"{cell['text']} at {x:g}" for x, cell in points)
        for n, points in drawn.items()
    )
    return svg(name, panel["title"], direction(log, higher_is_better), described, axes.height, body)
