"""The text that a distillation reads, the same for the step that stores targets and that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lpsteps.data.window_file import first_windows
from lpsteps.errors import LpstepsError

Tokens = npt.NDArray[np.int64]


def joined_windows(
    option: str,
    assignments: Sequence[str],
    counts: Sequence[int | None],
    read: Callable[[Path], Path],
) -> Tokens:
    """Read the windows of several corpora, one after the other.

    Args:
        option: The command-line option, for messages.
        assignments: Its values ``CORPUS=PATH``.
        counts: Windows wanted of each, the first ones; None for all.
        read: Registers a path as an input and returns it.

    Returns:
        Token ids ``[windows, length]``.

    Raises:
        LpstepsError: A value has another form, there is another number of counts, or there are
            fewer windows than asked for or windows of several lengths.
    """
    if len(assignments) != len(counts):
        raise LpstepsError(
            f"{option}: {len(assignments)} files, but the spec counts windows of {len(counts)}"
        )
    parts: list[Tokens] = []
    for assignment, count in zip(assignments, counts, strict=True):
        corpus, separator, path = assignment.partition("=")
        if not separator or not path:
            raise LpstepsError(f"{option}: {assignment}: expected CORPUS=PATH")
        part = first_windows(read(Path(path)), count)
        if parts and part.shape[1] != parts[0].shape[1]:
            raise LpstepsError(
                f"{option}: {corpus}: its windows have {part.shape[1]} tokens, those in front of "
                f"it {parts[0].shape[1]}; give all corpora of a training text one length"
            )
        parts.append(part)
    return np.concatenate(parts)


def drawn_windows(windows: Tokens, count: int | None, seed: int) -> Tokens:
    """Shuffle windows and return the first ones, so that every corpus has its share of them.

    Args:
        windows: Token ids ``[windows, length]``.
        count: Windows wanted; all when None.
        seed: Seed of the order.

    Raises:
        LpstepsError: There are fewer windows than asked for.
    """
    if count is not None and count > len(windows):
        raise LpstepsError(
            f"distillation: windows: {count}: the training text has {len(windows)}; ask for fewer"
        )
    return windows[np.random.default_rng(seed).permutation(len(windows))[:count]]
