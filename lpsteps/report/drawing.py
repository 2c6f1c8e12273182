"""Parts of inline SVG that the pictures share: axes, lines, marks and the frame around them.

Lines differ in colour, mark and dash. Colours are classes, so that the page's style sheet has them
in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from html import escape

WIDTH = 360

# Outlines of the marks in a circle of radius 1, and dashes of the lines; as many as colours.
MARKS = (
    "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "M-.9-.9h1.8v1.8h-1.8z",
    "M0-1.2L1.1.8H-1.1z",
    "M0-1.3L1.1 0 0 1.3-1.1 0z",
    "M0 1.2L1.1-.8H-1.1z",
    "M-.4-1.2h.8v.8h.8v.8h-.8v.8h-.8v-.8h-.8v-.8h.8z",
    "M-.95-1.3L0-.5.95-1.3 1.3-.95.5 0 1.3.95.95 1.3 0 .5-.95 1.3-1.3.95-.5 0-1.3-.95z",
    "M0-1.4L.4-.45 1.35-.45.6.2.85 1.15 0 .6-.85 1.15-.6.2-1.35-.45-.4-.45z",
)
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "5 2", "1 3", "12 3", "6 2 1 2 1 2")


def svg(id: str, title: str, note: str, description: str, height: int, body: Sequence[str]) -> str:
    """Return a picture, ``WIDTH`` units wide, with its heading and what is read out for it.

    Args:
        id: Unique in the page.
        title: What the numbers are.
        note: How to read them; stands behind the title.
        description: The numbers in words.
        height: In units of the picture.
        body: Its elements.
    """
    heading = (
        f'<text class="heading" x="0" y="14">{escape(title)}'
        f'<tspan class="tick" dx="8">{note}</tspan></text>'
    )
    return (
        f'<svg role="img" aria-labelledby="{id}-title {id}-description" '
        f'viewBox="0 0 {WIDTH} {height}">'
        f'<title id="{id}-title">{escape(title)}, {note}</title>'
        f'<desc id="{id}-description">{escape(description)}</desc>'
        f"{heading}{''.join(body)}</svg>"
    )


def sample(style: int) -> str:
    """Return a short piece of a line with its mark."""
    return (
        f'<svg class="series-{style}" aria-hidden="true" viewBox="0 0 36 12">'
        f'<path class="path" stroke-dasharray="{DASHES[style]}" d="M0 6L36 6"/>'
        f'<path class="mark" transform="translate(18 6) scale(4)" d="{MARKS[style]}"/></svg>'
    )


def rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a straight line of class ``kind``."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(kind: str, x: float, y: float, content: str, anchor: str) -> str:
    """Return a text of class ``kind``; ``anchor`` says which part of it stands at ``x``."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(content)}</text>'


def path(kind: str, dash: str, corners: Iterable[tuple[float, float] | None]) -> str:
    """Return a line of class ``kind`` through some places; None interrupts it."""
    steps, pen = [], "M"
    for corner in corners:
        if corner is not None:
            steps.append(f"{pen}{corner[0]:.1f} {corner[1]:.1f}")
        pen = "M" if corner is None else "L"
    return f'<path class="{kind}" stroke-dasharray="{dash}" d="{"".join(steps)}"/>'


def mark(style: int, x: float, y: float, look: str = "mark") -> str:
    """Return the mark of a line at a place."""
    return (
        f'<path class="{look}" transform="translate({x:.1f} {y:.1f}) scale(4.2)" '
        f'd="{MARKS[style]}"/>'
    )


def cell_mark(cell: str, hint: str, style: int, x: float, y: float, look: str = "mark") -> str:
    """Return the mark of a line that stands for a cell, with its number as a hint."""
    return (
        f'<g data-cell="{escape(cell)}"><title>{escape(hint)}</title>{mark(style, x, y, look)}</g>'
    )


def direction(log: bool, higher_is_better: bool) -> str:
    """Return how to read a vertical axis."""
    return f"{'log scale, ' if log else ''}{'higher' if higher_is_better else 'lower'} is better"


def domain(log: bool, values: Collection[float], factor: float = 1.05) -> tuple[float, float]:
    """Return the ends of an axis: the values and some room, on a log axis a factor."""
    low, high = min(values), max(values)
    if log:
        return low / factor, high * factor
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def scale(log: bool, low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the map from values to positions that takes ``low`` to ``start``."""
    transform: Callable[[float], float] = math.log10 if log else float
    first, last = transform(low), transform(high)
    return lambda value: start + (end - start) * (transform(value) - first) / (last - first)


def ticks(log: bool, low: float, high: float) -> list[float]:
    """Return round numbers in a range: 1, 2, 5 times powers of ten on a log axis, else a grid."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 2, 5), (1,)):
            powers = [factor * 10.0**decade for decade in decades for factor in factors]
            inside = [power for power in powers if low <= power <= high]
            if 3 <= len(inside) <= 7:
                return inside
        if len(inside) > 7:
            return inside[:: math.ceil(len(inside) / 7)]
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    # Multiples of a whole number, so that no rounding error shows in a label.
    return [
        round(number * step, 12)
        for number in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]
