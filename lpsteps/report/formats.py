"""Values as text. Rounding happens here and nowhere else; cells keep the exact values beside it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from lpsteps.patches import OperationKind

THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"


def format_value(value: float) -> str:
    """Return a number as the paper prints it: two decimals, or three digits when it is huge."""
    return f"{value:.2f}" if abs(value) < 100_000 else f"{value:.2e}"


def format_count(count: int) -> str:
    """Return ``576``, ``16 384`` with a thin space, ``0.33 M`` from 100,000 on, ``1.21 G``."""
    if count < 100_000:
        return f"{count:,}".replace(",", THIN_SPACE)
    unit, scale = ("M", 10**6) if count < 10**9 else ("G", 10**9)
    return f"{count / scale:.2f}{THIN_SPACE}{unit}"


def format_revision(revision: str) -> str:
    """Return a version as it is and a commit hash by its first ten digits."""
    return revision[:10] if len(revision) == 40 else revision


def format_bytes(count: int) -> str:
    """Return a number of bytes in the largest unit that it reaches, with one decimal."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f}{THIN_SPACE}{unit}"
    return f"{count}{THIN_SPACE}bytes"


def format_digits(value: float) -> str:
    """Return a positive number with three digits, or as many as its whole part has."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def format_share(percent: float) -> str:
    """Return a share with one decimal and its sign, such as ``58.3 %``."""
    return f"{percent:.1f}{THIN_SPACE}%"


def format_foldable(foldable: bool, kinds: Collection[OperationKind]) -> str:
    """Return ``no``, or what it takes to fold these kinds of operations: ``yes`` for nothing."""
    if not foldable:
        return "no"
    if "rotation" in kinds:
        return "by rotation"
    return "by scaling" if kinds else "yes"


def format_training(trained: bool) -> str:
    """Return ``trained`` or ``training-free``."""
    return "trained" if trained else "training-free"


def format_interval(bounds: tuple[float, float], decimals: int = 1) -> str:
    """Return ``[52.1, 63.4]``."""
    low, high = bounds
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def format_layers(order: Sequence[int]) -> str:
    """Return ``[12,17)`` when the layers form one window, else the layers in the given order."""
    ascending = sorted(order)
    if len(ascending) > 1 and ascending == list(range(ascending[0], ascending[0] + len(ascending))):
        return f"[{ascending[0]},{ascending[-1] + 1})"
    return ", ".join(str(layer) for layer in order)
