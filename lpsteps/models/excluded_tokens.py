"""Tokens at the start of each window that a measurement leaves out."""

from __future__ import annotations

from lpsteps.errors import LpstepsError


def check_exclude_first(exclude_first: int, length: int) -> None:
    """Check that some tokens of a window are left.

    Args:
        exclude_first: Tokens at the start of each window that do not count.
        length: Tokens of a window.

    Raises:
        LpstepsError: None is left, or the number is negative.
    """
    if not 0 <= exclude_first < length:
        raise LpstepsError(f"exclude_first: {exclude_first}: must lie in 0 to {length - 1}")
