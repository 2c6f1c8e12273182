"""Progress bars on standard error, silent when it is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

Item = TypeVar("Item")


def _display(*columns: ProgressColumn, auto_refresh: bool = True) -> Progress:
    """Return bars on standard error that vanish at their end.

    They are bound to the present ``sys.stderr``: what a library prints may be caught meanwhile.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    return Progress(*columns, console=console, transient=True, auto_refresh=auto_refresh)


def track(
    iterable: Iterable[Item],
    description: str,
    total: int | None = None,
    *,
    between_items: bool = False,
) -> Iterator[Item]:
    """Yield the items of ``iterable`` while a bar shows the count and the time left.

    Args:
        iterable: What to walk through.
        description: The text in front of the bar.
        total: The number of items, when ``iterable`` has no length.
        between_items: Draw only between two items, so that nothing runs beside work that is timed.
    """
    if not sys.stderr.isatty():
        yield from iterable
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _display(*columns, auto_refresh=not between_items) as progress:
        yield from progress.track(iterable, total=total, description=description)


@contextmanager
def byte_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the bytes that are done, the speed and the time left.

    Args:
        description: The text in front of the bar.
        total: All bytes.

    Yields:
        Moves the bar on by a number of bytes.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _display(*columns) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def elapsed(description: str) -> Iterator[None]:
    """Show how long something has taken that cannot tell how far it is.

    Args:
        description: The text in front of the time.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with _display(*columns) as progress:
        progress.add_task(description, total=None)
        yield


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
    from rich.progress import (
        BarColumn,
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
    with _display(*columns) as progress:
        task = progress.add_task(description, total=tokens, completed=completed, loss="")
        yield lambda done, loss: progress.update(task, completed=done, loss=loss)
