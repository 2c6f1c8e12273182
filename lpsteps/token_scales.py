"""Token-wise channel scalings of a cut: how far one scale per channel is from serving all tokens.

LinearPatch rescales a channel by one ratio for all tokens, a mean. Section 3.3 of its paper
(arXiv 2505.24680, figure 2) looks at the ratios token by token, in the model's own basis and in a
Hadamard basis, and measures their spread by ``sigma_d``. For token t and channel k of the streams
``X_s``, which enters the cut, and ``X_e``, which leaves it, both in the same basis,

    ``d[t, k] = |X_e[t, k]| / max(|X_s[t, k]|, epsilon * mean over k of |X_s[t, k]|)``

and ``sigma_d`` is the standard deviation of all ``d[t, k]`` over tokens and channels together, with
the number of ratios as divisor. The paper does not say how it guards the division. Without a floor
the variance of a quotient by a number that passes through zero is infinite, so ``sigma_d`` grows
with the number of tokens and falls with epsilon: compare bases on the same text with the same
epsilon, not values of different runs.

The first token of a window, on which models often put massive activations, is summed up by itself,
so that the numbers are there with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lpsteps.artifacts import read_parquet, write_parquet
from lpsteps.errors import LpstepsError

Array = npt.NDArray[np.float64]

LOWEST_DECADE, HIGHEST_DECADE, BINS_PER_DECADE = -4, 8, 50
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def bin_edges() -> Array:
    """Return the edges of the histogram's bins, ascending, evenly spaced in the logarithm."""
    count = (HIGHEST_DECADE - LOWEST_DECADE) * BINS_PER_DECADE
    edges: Array = 10.0 ** (LOWEST_DECADE + np.arange(count + 1) / BINS_PER_DECADE)
    return edges


@dataclass(frozen=True, eq=False)
class Ratios:
    """A summary of many ratios.

    Attributes:
        count: How many.
        mean: Their mean.
        squares: Sum of their squared distances from the mean.
        largest: The largest one.
        histogram: Int64 ``[bins + 2]``: how many lie below the first edge, in each bin (its lower
            edge belongs to it), and at the last edge or above.
    """

    count: int
    mean: float
    squares: float
    largest: float
    histogram: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Array) -> Self:
        """Summarise values of any shape."""
        flat = values.ravel()
        places = np.searchsorted(bin_edges(), flat, side="right")
        mean = float(flat.mean()) if flat.size else 0.0
        return cls(
            count=flat.size,
            mean=mean,
            squares=float(np.square(flat - mean).sum()),
            largest=float(flat.max(initial=0.0)),
            histogram=np.bincount(places, minlength=len(bin_edges()) + 1).astype(np.int64),
        )

    def __add__(self, other: Ratios) -> Ratios:
        """Summarise the ratios of both, from their means rather than from sums that cancel."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        distance = other.mean - self.mean
        return Ratios(
            count=count,
            mean=self.mean + share * distance,
            squares=self.squares + other.squares + self.count * share * distance**2,
            largest=max(self.largest, other.largest),
            histogram=self.histogram + other.histogram,
        )

    @property
    def sigma(self) -> float:
        """Standard deviation of the ratios, with their number as divisor."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def quantile(self, probability: float) -> float:
        """Return a quantile, interpolated in the logarithm inside its bin.

        One below the first edge or above the last is that edge.
        """
        reached = np.cumsum(self.histogram)
        wanted = probability * self.count
        index = int(np.searchsorted(reached, wanted))
        edges = bin_edges()
        if index == 0:
            return float(edges[0])
        if index >= len(edges):
            return float(edges[-1])
        inside = (wanted - reached[index - 1]) / self.histogram[index]
        lower, upper = np.log10(edges[index - 1 : index + 1])
        return float(10.0 ** (lower + inside * (upper - lower)))


def token_ratios(source: Array, target: Array, epsilon: float) -> Array:
    """Return the ratio of every token and channel, as the module says.

    Args:
        source: Stream in front of the cut, float64 ``[..., hidden_size]``.
        target: Stream behind it, the same shape.
        epsilon: Floor under the denominator, relative to the token's mean magnitude. A token of
            zeros is divided by the smallest normal number, so where both sides are zero the ratio
            is 0.
    """
    magnitude = np.abs(source)
    floor = epsilon * magnitude.mean(axis=-1, keepdims=True)
    floor = np.maximum(floor, np.finfo(np.float64).tiny)
    ratios: Array = np.abs(target) / np.maximum(magnitude, floor)
    return ratios


@dataclass(frozen=True, eq=False)
class TokenScales:
    """The ratios of one basis: of the windows' first tokens, and of all others."""

    first: Ratios
    others: Ratios

    @property
    def all(self) -> Ratios:
        """The ratios of all tokens."""
        return self.first + self.others


@dataclass(frozen=True, eq=False)
class ScalesFile:
    """What `token_scales.parquet` holds.

    Attributes:
        start: First removed layer.
        end: Layer after the last one.
        epsilon: Floor under denominators.
        windows: Windows of text.
        tokens: Tokens read, in all windows together.
        bases: The ratios by basis.
    """

    start: int
    end: int
    epsilon: float
    windows: int
    tokens: int
    bases: dict[str, TokenScales]


_METADATA = ("start", "end", "epsilon", "windows", "tokens")


def write_token_scales(path: Path, scales: ScalesFile) -> None:
    """Write the summaries, one row per basis and kind of tokens (`first`, `others`, `all`).

    Columns: `basis`, `tokens`, `count`, `mean`, `sigma`, `squares`, `largest`, `quantiles` (at
    `QUANTILES`) and `histogram`; the edges are `bin_edges()`.
    """
    import pyarrow as pa

    kinds = ("first", "others", "all")
    rows: Sequence[tuple[str, str, Ratios]] = [
        (basis, kind, getattr(found, kind))
        for basis, found in sorted(scales.bases.items())
        for kind in kinds
    ]
    columns: dict[str, Any] = {
        "basis": pa.array([basis for basis, _, _ in rows], pa.string()),
        "tokens": pa.array([kind for _, kind, _ in rows], pa.string()),
        "count": pa.array([ratios.count for *_, ratios in rows], pa.int64()),
        **{
            name: pa.array([getattr(ratios, name) for *_, ratios in rows], pa.float64())
            for name in ("mean", "sigma", "squares", "largest")
        },
        "quantiles": pa.array(
            [[ratios.quantile(p) for p in QUANTILES] for *_, ratios in rows],
            pa.list_(pa.float64()),
        ),
        "histogram": pa.array(
            [ratios.histogram.tolist() for *_, ratios in rows], pa.list_(pa.int64())
        ),
    }
    metadata = {name: repr(getattr(scales, name)) for name in _METADATA}
    write_parquet(path, pa.table(columns).replace_schema_metadata(metadata))


def read_token_scales(path: Path) -> ScalesFile:
    """Read the summaries.

    Raises:
        LpstepsError: The file is missing or holds something else.
    """
    table = read_parquet(path)
    metadata = {
        key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
    }
    if any(name not in metadata for name in _METADATA):
        raise LpstepsError(f"{path}: holds no token-wise scalings; delete it to rebuild it")
    found = {
        (row["basis"], row["tokens"]): Ratios(
            row["count"],
            row["mean"],
            row["squares"],
            row["largest"],
            np.asarray(row["histogram"], dtype=np.int64),
        )
        for row in table.to_pylist()
    }
    return ScalesFile(
        start=int(metadata["start"]),
        end=int(metadata["end"]),
        epsilon=float(metadata["epsilon"]),
        windows=int(metadata["windows"]),
        tokens=int(metadata["tokens"]),
        bases={
            basis: TokenScales(found[basis, "first"], found[basis, "others"])
            for basis in sorted({basis for basis, _ in found})
        },
    )
