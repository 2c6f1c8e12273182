"""Progress bars on standard error, silent when it is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of ``iterable`` while a bar shows count, speed and the time left.

    Args:
        iterable: What to walk through.
        description: The text in front of the bar.
        total: The number of items, when ``iterable`` has no length.
    """
    if not sys.stderr.isatty():
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(iterable, total=total, description=description)


@contextmanager
def training_bar(
    description: str, tokens: int, completed: int
) -> Iterator[Callable[[int, str], None]]:
    """Show a bar with a loss, the tokens per second and the time left.

    Args:
        description: The text in front of the bar.
        tokens: All tokens of the training, those of each epoch counted.
        completed: Those that an earlier run has read already.

    Yields:
        Moves the bar: takes the tokens read so far, with those of an earlier run, and a text to
        show behind the bar, the loss.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[loss]}"),
        SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=tokens, completed=completed, loss="")
        yield lambda done, loss: progress.update(task, completed=done, loss=loss)
