"""Reading the token windows that `tokenize_corpus` has cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lpsteps.artifacts import read_parquet
from lpsteps.errors import LpstepsError


def read_windows(path: Path) -> npt.NDArray[np.int64]:
    """Read all windows of a file.

    Returns:
        Token ids ``[windows, length]``.

    Raises:
        LpstepsError: There are no windows, or they differ in length or are too short to predict.
    """
    windows = read_parquet(path, columns=["token_ids"])["token_ids"].to_pylist()
    lengths = {len(window) for window in windows}
    if len(lengths) != 1 or min(lengths) < 2:
        raise LpstepsError(
            f"{path}: {len(windows)} windows of {min(lengths, default=0)} to "
            f"{max(lengths, default=0)} tokens: expected windows of one length, at least 2; delete "
            "it to cut them anew"
        )
    return np.asarray(windows, dtype=np.int64)


def first_windows(path: Path, count: int | None) -> npt.NDArray[np.int64]:
    """Read the first windows of a file.

    Args:
        path: The file.
        count: Windows wanted; all when None.

    Returns:
        Token ids ``[count, length]``.

    Raises:
        LpstepsError: There are fewer windows than asked for.
    """
    windows = read_windows(path)
    if count is not None and len(windows) < count:
        raise LpstepsError(
            f"{path}: has {len(windows)} windows, but windows: {count} are asked for; ask for "
            "fewer or take a larger corpus split"
        )
    return windows[:count]
