"""Training curves: what ``training.parquet`` of a variant says, made small for a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpsteps.artifacts import read_parquet
from lpsteps.errors import LpstepsError

MOST_POINTS = 200

# The loss of a step is that of a few windows; its mean is taken over this part of all steps.
SMOOTHED_SHARE = 0.05

_COLUMNS = ["epoch", "tokens", "fit_loss", "heldout_kl"]


@dataclass(frozen=True)
class TrainingCurve:
    """How a distillation went.

    Attributes:
        fit: Tokens read by the end of each step, and the loss of its batch in front of the step.
        heldout: Tokens read before each measurement, and the Kullback-Leibler divergence from the
            dense model in nats per position; the first is in front of the training.
        tokens: Tokens read in all, those of a second pass counted again.
        first_pass: Tokens read in the first pass over the text.
    """

    fit: tuple[tuple[int, float], ...]
    heldout: tuple[tuple[int, float], ...]
    tokens: int
    first_pass: int

    @property
    def kept(self) -> tuple[int, float]:
        """The measurement whose state is the result: the first one with the least divergence."""
        return min(self.heldout, key=lambda measured: measured[1])


def read_curve(path: Path) -> TrainingCurve:
    """Read a training curve.

    Args:
        path: Parquet file with one row per step in order, and maybe one in front of the first, with
            at least the columns epoch and tokens, which has the tokens read by then, fit_loss and
            heldout_kl, each null where it was not measured.

    Raises:
        LpstepsError: The file is missing, lacks a column, or holds no such curve.
    """
    columns = read_parquet(path, _COLUMNS).to_pydict()
    tokens = columns["tokens"]
    # The row in front of the training has read nothing yet.
    reading = [pair for pair in zip(columns["epoch"], tokens, strict=True) if pair[1] > 0]
    first_epoch = min((epoch for epoch, _ in reading), default=0)
    curve = TrainingCurve(
        fit=_measured(tokens, columns["fit_loss"]),
        heldout=_measured(tokens, columns["heldout_kl"]),
        tokens=max(tokens, default=0),
        first_pass=max((count for epoch, count in reading if epoch == first_epoch), default=0),
    )
    if not curve.heldout or sorted(tokens) != tokens:
        raise LpstepsError(f"{path}: holds no training curve; delete it to rebuild it")
    return curve


def _measured(
    tokens: Sequence[int], values: Sequence[float | None]
) -> tuple[tuple[int, float], ...]:
    return tuple(
        (count, value) for count, value in zip(tokens, values, strict=True) if value is not None
    )


def thinned_curve(curve: TrainingCurve) -> dict[str, Any]:
    """Return what a picture shows of a curve, as plain data.

    The mean is taken over all steps. Of it, of the losses and of the measurements no more than
    ``MOST_POINTS`` stay, evenly spread, the first and the last among them; of the measurements the
    least one besides.

    Returns:
        ``window``, the number of steps that the mean is over; ``fit`` with the tokens, the loss and
        the mean up to there; ``heldout`` with tokens and divergence; of the divergence also the
        first (``before``), the least (``kept``) and the last (``after``), each with its tokens.
    """
    window = max(1, round(SMOOTHED_SHARE * len(curve.fit)))
    means = moving_mean([loss for _, loss in curve.fit], window)
    fit = [[*point, mean] for point, mean in zip(curve.fit, means, strict=True)]
    measured = {*evenly(len(curve.heldout)), curve.heldout.index(curve.kept)}
    return {
        "window": window,
        "fit": [fit[index] for index in evenly(len(fit))],
        "heldout": [list(curve.heldout[index]) for index in sorted(measured)],
        "before": list(curve.heldout[0]),
        "kept": list(curve.kept),
        "after": list(curve.heldout[-1]),
    }


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Return at each value the mean of the last ``window`` ones, of all while they are fewer."""
    means = []
    for end in range(1, len(values) + 1):
        covered = values[max(0, end - window) : end]
        means.append(math.fsum(covered) / len(covered))
    return means


def evenly(count: int, most: int = MOST_POINTS) -> list[int]:
    """Return up to ``most`` indices out of ``count``, evenly spread from the first to the last."""
    if count <= most:
        return list(range(count))
    return [number * (count - 1) // (most - 1) for number in range(most)]
