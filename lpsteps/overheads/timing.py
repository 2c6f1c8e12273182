"""Timing several pieces of work in turns, so that a change of the machine's speed hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lpsteps.progress import track

WARM_UP = 3
FEWEST = 5
"""Turns that are timed even if they take more than the allowed time."""


class Work(NamedTuple):
    """What to time: ``prepare`` makes the argument of ``run`` and is not timed itself."""

    prepare: Callable[[], Any]
    run: Callable[[Any], object]


def time_in_turns(
    works: Mapping[str, Work],
    *,
    repetitions: int,
    seconds: float,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run all works once per turn and time each.

    A turn begins one work later than the one before it, so that none always follows the same one.

    Args:
        works: What to time, by name.
        repetitions: Turns to time; as many as :data:`WARM_UP` before them do not count.
        seconds: After so much time no turn begins, apart from the first :data:`FEWEST`.
        wait: Returns when the device has finished its work.
        clock: Seconds.

    Returns:
        Milliseconds of each work in each turn.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    begin = clock()
    turns = range(-WARM_UP, repetitions)
    for turn in track(turns, "timing", between_items=True):
        if turn >= FEWEST and clock() - begin >= seconds:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            argument = works[name].prepare()
            wait()
            start = clock()
            works[name].run(argument)
            wait()
            if turn >= 0:
                times[name].append(1000 * (clock() - start))
    return times
