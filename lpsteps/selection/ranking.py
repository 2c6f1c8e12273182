"""Rankings of candidates for removal, and the plans that follow from them.

A selection metric scores *candidates*; a candidate is a tuple of layers that leave together. All
candidates are kept, with score, eligibility and rank, so that a reader sees how close a decision
was and how the metric judges a layer that it may not take. There are four kinds of ranking:

``single``
    One layer per candidate, independent of how many layers go. To remove n layers, take the n best.
``window``
    One window of neighbouring layers per candidate, with its own candidates for every n. To remove
    n layers, take the best candidate of that n.
``set``
    The same with sets of layers that need not be neighbours.
``sequence``
    One layer per candidate, scored again in every round on the model that the earlier rounds left.
    To remove n layers, take the winners of the rounds 1 to n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import read_parquet, write_parquet
from lpsteps.errors import LpstepsError

Kind = Literal["single", "window", "set", "sequence"]


@dataclass(frozen=True)
class Candidate:
    """Layers that would leave the model together.

    Attributes:
        layers: The layers, in the order in which they leave.
        score: What the metric says, in the metric's own unit; None where it was not computed.
        eligible: Whether the metric may choose this candidate.
        n: Number of removed layers that the candidate belongs to; None when it serves every n.
        round: Round of a ``sequence`` ranking, counted from 1; None for the other kinds.
        rank: 1 for the first to go, among the eligible candidates of the same n and round; None
            while not ranked, and for candidates that are not eligible.
    """

    layers: tuple[int, ...]
    score: float | None
    eligible: bool
    n: int | None = None
    round: int | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Ranking:
    """All candidates of one selection, ranked."""

    kind: Kind
    candidates: tuple[Candidate, ...]


def too_few(n: int, n_layers: int, removable: int) -> str | None:
    """Return why n layers cannot go when only some of a model may, or None.

    Args:
        n: Number of layers to remove.
        n_layers: Layers of the model.
        removable: How many of them may go.
    """
    if n <= removable:
        return None
    return f"of {n_layers} layers {max(0, removable)} may go, which is too few to remove {n}"


class Exemptions(BaseModel):
    """Parameters of a metric that may not take some layers at the ends of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exempt_first: int = Field(default=0, ge=0, description="Layers at the start that must stay")
    exempt_last: int = Field(default=0, ge=0, description="Layers at the end that must stay")

    def allow(self, start: int, end: int, n_layers: int) -> bool:
        """Return whether the layers ``[start, end)`` of ``n_layers`` may all go."""
        return self.exempt_first <= start and end <= n_layers - self.exempt_last

    def unsuited(self, n: int, n_layers: int) -> str | None:
        """Return why n of ``n_layers`` layers cannot go, or None."""
        return too_few(n, n_layers, n_layers - self.exempt_first - self.exempt_last)

    @staticmethod
    def none_left(rounds: int, number: int) -> LpstepsError:
        """Return the error for a round in which every layer that is left must stay.

        Args:
            rounds: How many layers are to go, one in each round.
            number: The round, counted from 1.
        """
        return LpstepsError(
            f"n: {rounds}: in round {number} no layer is left that is not exempt; remove fewer "
            "layers or lower exempt_first and exempt_last"
        )


def ranked(candidates: Iterable[Candidate], *, descending: bool = False) -> tuple[Candidate, ...]:
    """Give ranks to candidates that compete with one another.

    Args:
        candidates: Candidates of one n and round. Of two equal scores the earlier candidate wins,
            so candidates are listed by their lowest layer.
        descending: Whether the highest score goes first; by default the lowest does.

    Returns:
        The candidates in the given order, eligible ones with their rank.

    Raises:
        LpstepsError: An eligible candidate has no score, or one that is not a number.
    """
    rows = list(candidates)
    keys: dict[int, float] = {}
    for index, row in enumerate(rows):
        if row.eligible:
            if row.score is None or math.isnan(row.score):
                raise LpstepsError(
                    f"layers {list(row.layers)}: score {row.score}: cannot be ranked; "
                    "check the calibration data and the dtype of the model"
                )
            keys[index] = -row.score if descending else row.score
    for rank, index in enumerate(sorted(keys, key=keys.__getitem__), start=1):
        rows[index] = replace(rows[index], rank=rank)
    return tuple(rows)


def ranked_layers(scores: Iterable[float], exempt: Exemptions) -> Ranking:
    """Rank single layers by rising score; of equal ones the lowest layer goes first.

    Args:
        scores: One score per layer of the model.
        exempt: Layers that must stay; they are in the ranking, but not eligible.

    Returns:
        A ``single`` ranking.

    Raises:
        LpstepsError: A score is not a number.
    """
    values = [float(score) for score in scores]
    candidates = (
        Candidate((layer,), score, eligible=exempt.allow(layer, layer + 1, len(values)))
        for layer, score in enumerate(values)
    )
    return Ranking("single", ranked(candidates))


def ranked_windows(
    scores: Iterable[float], n: int, exempt: Exemptions, *, descending: bool = False
) -> tuple[Candidate, ...]:
    """Rank all windows of n layers; of equal scores the lowest window goes first.

    Args:
        scores: One score per window ``[start, start + n)``, from ``start`` 0 to the last that fits.
        n: Layers of a window.
        exempt: Layers that must stay; windows that touch them are not eligible.
        descending: Whether the highest score goes first; by default the lowest does.

    Returns:
        The candidates of this n of a ``window`` ranking.

    Raises:
        LpstepsError: The score of an eligible window is not a number.
    """
    values = [float(score) for score in scores]
    n_layers = len(values) + n - 1
    candidates = (
        Candidate(
            tuple(range(start, start + n)),
            score,
            eligible=exempt.allow(start, start + n, n_layers),
            n=n,
        )
        for start, score in enumerate(values)
    )
    return ranked(candidates, descending=descending)


def ranking_of_windows(
    counts: Sequence[int],
    scores: Callable[[int], Iterable[float]],
    exempt: Exemptions,
    *,
    descending: bool = False,
) -> Ranking:
    """Rank all windows of several lengths, each length for itself.

    Args:
        counts: Numbers of layers of a window.
        scores: Gives the scores of the windows of one length, as :func:`ranked_windows` reads them.
        exempt: Layers that must stay.
        descending: Whether the highest score goes first; by default the lowest does.

    Returns:
        A ``window`` ranking.

    Raises:
        LpstepsError: The score of an eligible window is not a number.
    """
    candidates = [
        candidate
        for n in counts
        for candidate in ranked_windows(scores(n), n, exempt, descending=descending)
    ]
    return Ranking("window", tuple(candidates))


def choose(ranking: Ranking, n: int) -> tuple[int, ...]:
    """Return the n layers that a ranking gives up, in removal order.

    Raises:
        LpstepsError: The ranking does not reach n layers.
    """
    if ranking.kind == "single":
        best = [row for row in ranking.candidates if row.rank is not None and row.rank <= n]
        best.sort(key=lambda row: row.rank or 0)
    elif ranking.kind in ("window", "set"):
        best = [row for row in ranking.candidates if row.n == n and row.rank == 1]
    else:
        best = [row for row in ranking.candidates if (row.round or 0) <= n and row.rank == 1]
        best.sort(key=lambda row: row.round or 0)
    order = tuple(layer for row in best for layer in row.layers)
    if len(order) != n or n < 1:
        raise LpstepsError(
            f"n: {n}: this {ranking.kind} ranking has {len(order)} layers to offer for it; "
            "remove fewer layers or exempt fewer"
        )
    return order


def write_ranking(path: Path, ranking: Ranking) -> None:
    """Write a ranking as Parquet, one row per candidate, ``kind`` in the schema's metadata."""
    import pyarrow as pa

    schema = pa.schema(
        [
            pa.field("n", pa.int16()),
            pa.field("round", pa.int16()),
            pa.field("layers", pa.list_(pa.int16()), nullable=False),
            pa.field("score", pa.float64()),
            pa.field("eligible", pa.bool_(), nullable=False),
            pa.field("rank", pa.int32()),
        ],
        metadata={"kind": ranking.kind},
    )
    columns = {
        name: [getattr(candidate, name) for candidate in ranking.candidates]
        for name in schema.names
    }
    write_parquet(path, pa.table(columns, schema=schema))


def read_ranking(path: Path) -> Ranking:
    """Read a ranking.

    Raises:
        LpstepsError: The file is missing or is not a ranking.
    """
    table = read_parquet(path)
    kind = (table.schema.metadata or {}).get(b"kind", b"").decode()
    if kind not in get_args(Kind):
        raise LpstepsError(f"{path}: kind '{kind}': expected a ranking of kind {get_args(Kind)}")
    candidates = tuple(
        Candidate(**{**row, "layers": tuple(row["layers"])}) for row in table.to_pylist()
    )
    return Ranking(cast(Kind, kind), candidates)
