"""The frame of a picture: where values stand, the grid, and the labels around it."""

from __future__ import annotations

from collections.abc import Sequence

from lpsteps.report.drawing import WIDTH, rule, scale, text, ticks

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 44
"""Room around the frame, for heading and labels."""


class Axes:
    """Two axes with a title below the horizontal one.

    Attributes:
        horizontal: Map from values to positions.
        vertical: The same, upwards.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_title: str,
        x_ticks: Sequence[tuple[float, str]] | None = None,
        y_ticks: Sequence[tuple[float, str]] | None = None,
        log: bool = False,
        height: int = 270,
        inset: int = 0,
        suffix: str = "",
    ) -> None:
        """Place both axes; ticks that are not given are round numbers, with a grid.

        Args:
            x: First and last value of the horizontal axis.
            y: The same of the vertical one.
            x_title: What the horizontal axis is; empty for nothing.
            x_ticks: Values and labels of the horizontal axis.
            y_ticks: The same of the vertical one, for cells; there is no grid then.
            log: Whether the vertical axis is logarithmic.
            height: Of the frame and the labels, in units of the picture.
            inset: Room inside of the frame beside the first and the last value.
            suffix: Behind each number of the vertical axis.
        """
        self.height = height
        self.horizontal = scale(False, *x, LEFT + inset, WIDTH - RIGHT - inset)
        self.vertical = scale(log, *y, height - BOTTOM, TOP)
        self._x_title = x_title
        self._x_ticks = [(t, f"{t:g}") for t in ticks(False, *x)] if x_ticks is None else x_ticks
        self._grid = y_ticks is None
        self._y_ticks = (
            [(t, f"{t:g}{suffix}") for t in ticks(log, *y)] if y_ticks is None else y_ticks
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point stands."""
        return self.horizontal(x), self.vertical(y)

    def labels(self) -> list[str]:
        """Return grid, labels of both axes and the title of the horizontal one."""
        body = []
        for value, label in self._y_ticks:
            y = self.vertical(value)
            if self._grid:
                body.append(rule("grid", LEFT, y, WIDTH - RIGHT, y))
            body.append(text("tick", LEFT - 6, y + 4, label, "end"))
        for value, label in self._x_ticks:
            x = self.horizontal(value)
            body.append(text("tick", x, self.height - BOTTOM + 17, label, "middle"))
        if self._x_title:
            middle = (LEFT + WIDTH - RIGHT) / 2
            body.append(text("axis", middle, self.height - 6, self._x_title, "middle"))
        return body
