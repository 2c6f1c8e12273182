"""Training curves as inline SVG: the training's loss and the held-out divergence, by tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lpsteps.report.axes import Axes
from lpsteps.report.curves import MOST_POINTS, SMOOTHED_SHARE
from lpsteps.report.drawing import DASHES, direction, domain, mark, path, sample, svg, ticks
from lpsteps.report.formats import format_count, format_value

Line = Mapping[str, Any]

HEADS = ("Tokens", "KL before", "KL at best", "Tokens at best", "KL at the end", "Training record")


@dataclass(frozen=True)
class CurvesView:
    """The training curves of one model at one number of removed layers.

    Attributes:
        heading: The number of layers, in words.
        drawings: SVG elements.
        legend: Per curve its sample as SVG and its label.
        caption: What the drawings show, in sentences.
        heads: Above the columns of numbers.
        rows: Each curve's label, its numbers as text, and the file that it stands in.
    """

    heading: str
    drawings: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], str], ...]


def curves_view(table: str, curves: Mapping[str, Any], n_layers: int) -> CurvesView:
    """Arrange the training curves of one model and level.

    Args:
        table: Id of the table.
        curves: One of the ``curves`` of a table of ``tables.json``.
        n_layers: Layers of the dense model.
    """
    lines: Sequence[Line] = curves["lines"]
    name = f"curves-{table}-{curves['model']}-n{curves['n']}"
    end = max(line["tokens"] for line in lines)
    # Losses of hidden states have another unit.
    divergences = [line for line in lines if line["objective"] == "logits_kl" and line["fit"]]
    drawings = [_heldout(f"{name}-heldout", lines, end)]
    if divergences:
        drawings.insert(0, _fit(f"{name}-fit", divergences, end))
    return CurvesView(
        heading=f"Training with {curves['n']} of {n_layers} layers removed",
        drawings=tuple(drawings),
        legend=tuple((sample(line["style"]), line["label"]) for line in lines),
        caption=_caption(lines, divergences),
        heads=HEADS,
        rows=tuple(
            (
                line["label"],
                (
                    format_count(line["tokens"]),
                    format_kl(line["before"][1]),
                    format_kl(line["kept"][1]),
                    format_count(line["kept"][0]),
                    format_kl(line["after"][1]),
                ),
                line["source"]["path"],
            )
            for line in lines
        ),
    )


def format_kl(value: float) -> str:
    """Return a divergence with three decimals, or three digits when it is huge."""
    return f"{value:.3f}" if abs(value) < 1000 else format_value(value)


def _caption(lines: Sequence[Line], divergences: Sequence[Line]) -> str:
    parts = [
        "Kullback-Leibler divergence from the dense model in nats per position, log scale.",
        "Held out: over the whole vocabulary, on text that is not trained on, before the training "
        "and during it; the state at the lowest point, the filled mark, is kept.",
    ]
    if divergences:
        parts.append(
            "Fit loss: the training's own, over the outcomes that it compares, in front of each "
            f"step (thin), and its mean over the last {100 * SMOOTHED_SHARE:g} % of all steps "
            f"(thick), drawn at {MOST_POINTS} of them at most."
        )
    others = [line["label"] for line in lines if line["objective"] != "logits_kl"]
    if others:
        parts.append(f"Not a divergence, so without a fit curve: {'; '.join(others)}.")
    return " ".join(parts)


def _fit(name: str, lines: Sequence[Line], end: int) -> str:
    axes = _TokenAxes(
        end, [value for line in lines for point in line["fit"] for value in point[1:]]
    )
    body = axes.axes.labels()
    for line in lines:
        raw = path("raw", "none", axes.places([point[:2] for point in line["fit"]]))
        mean = path(
            "path",
            DASHES[line["style"]],
            axes.places([(point[0], point[2]) for point in line["fit"]]),
        )
        body.append(f'<g class="series-{line["style"]}">{raw}{mean}</g>')
    described = "; ".join(
        f"{line['label']}: mean loss {format_kl(line['fit'][0][2])} at first, "
        f"{format_kl(line['fit'][-1][2])} at the end"
        for line in lines
    )
    return svg(name, "Fit loss", axes.note, described, axes.axes.height, body)


def _heldout(name: str, lines: Sequence[Line], end: int) -> str:
    axes = _TokenAxes(end, [value for line in lines for _, value in line["heldout"]])
    body = axes.axes.labels()
    for line in lines:
        places = axes.places(line["heldout"])
        parts = [path("path", DASHES[line["style"]], places)]
        for (tokens, value), (x, y) in zip(line["heldout"], places, strict=True):
            kept = [tokens, value] == line["kept"]
            hint = f"{line['label']}, after {format_count(tokens)} tokens: {format_kl(value)}"
            parts.append(
                f"<g><title>{escape(hint)}{', kept' if kept else ''}</title>"
                f"{mark(line['style'], x, y, 'mark' if kept else 'mark passed')}</g>"
            )
        body.append(f'<g class="series-{line["style"]}">{"".join(parts)}</g>')
    described = "; ".join(
        f"{line['label']}: {format_kl(line['before'][1])} before the training, at best "
        f"{format_kl(line['kept'][1])} after {format_count(line['kept'][0])} tokens, "
        f"{format_kl(line['after'][1])} at the end"
        for line in lines
    )
    return svg(name, "Held-out divergence", axes.note, described, axes.axes.height, body)


class _TokenAxes:
    """Axes for some values against tokens; logarithmic unless a value is not positive."""

    def __init__(self, end: int, values: Sequence[float]) -> None:
        factor, unit = next(
            (factor, unit)
            for factor, unit in (
                (10**6, "million tokens"),
                (1000, "thousand tokens"),
                (1, "tokens"),
            )
            if end >= factor
        )
        log = min(values) > 0
        self.note = f"nats, {direction(log, higher_is_better=False)}"
        self.axes = Axes(
            x=(0, end),
            y=domain(log, values),
            x_title=f"Read, {unit}",
            x_ticks=[(tick * factor, f"{tick:g}") for tick in ticks(False, 0, end / factor)],
            log=log,
            inset=8,
        )

    def places(self, points: Iterable[Sequence[float]]) -> list[tuple[float, float]]:
        """Return where points of tokens and value stand."""
        return [self.axes.place(tokens, value) for tokens, value in points]
