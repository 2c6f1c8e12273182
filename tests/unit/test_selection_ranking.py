"""Ranks, the choices that follow from them, and the ranking file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.artifacts import read_parquet, write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.selection.ranking import (
    Candidate,
    Ranking,
    choose,
    ranked,
    read_ranking,
    write_ranking,
)

# Few distinct values, so that ties are common.
SCORES = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=12
)


def _rank_slowly(rows: list[tuple[float, bool]], descending: bool) -> list[int | None]:
    """Take the best of the remaining candidates again and again; of equal ones the first."""
    ranks: list[int | None] = [None] * len(rows)
    left = [index for index, (_, eligible) in enumerate(rows) if eligible]
    for rank in range(1, len(left) + 1):
        best = left[0]
        for index in left[1:]:
            if rows[index][0] > rows[best][0] if descending else rows[index][0] < rows[best][0]:
                best = index
        ranks[best] = rank
        left.remove(best)
    return ranks


@given(SCORES, st.booleans())
def test_ranks_equal_repeated_selection(rows: list[tuple[float, bool]], descending: bool) -> None:
    candidates = [Candidate((layer,), *row) for layer, row in enumerate(rows)]
    found = ranked(candidates, descending=descending)
    assert [row.rank for row in found] == _rank_slowly(rows, descending)
    assert [row.layers for row in found] == [row.layers for row in candidates]


@pytest.mark.parametrize("score", [None, float("nan")])
def test_an_eligible_candidate_needs_a_score(score: float | None) -> None:
    with pytest.raises(LpstepsError, match=r"layers \[3\]: score"):
        ranked([Candidate((3,), score, eligible=True)])
    assert ranked([Candidate((3,), score, eligible=False)])[0].rank is None


SINGLE = Ranking(
    "single",
    ranked(
        Candidate((layer,), score, eligible=layer != 1)
        for layer, score in enumerate([0.3, 0.0, 0.1, 0.2])
    ),
)
WINDOW = Ranking(
    "window",
    (
        *ranked([Candidate((0,), 1.0, True, n=1), Candidate((1,), 0.0, True, n=1)]),
        *ranked([Candidate((0, 1), 0.0, True, n=2), Candidate((1, 2), 1.0, True, n=2)]),
        Candidate((0, 1, 2), 0.0, eligible=False, n=3),
    ),
)
SET = Ranking("set", ranked([Candidate((0, 2), 0.0, True, n=2)]))
SEQUENCE = Ranking(
    "sequence",
    (
        *ranked([Candidate((1,), 5.0, True, round=1), Candidate((2,), 4.0, True, round=1)]),
        *ranked([Candidate((1,), 6.0, True, round=2), Candidate((3,), 7.0, True, round=2)]),
    ),
)


@pytest.mark.parametrize(
    ("ranking", "n", "order"),
    [
        (SINGLE, 1, (2,)),
        (SINGLE, 3, (2, 3, 0)),
        (WINDOW, 1, (1,)),
        (WINDOW, 2, (0, 1)),
        (SET, 2, (0, 2)),
        (SEQUENCE, 1, (2,)),
        (SEQUENCE, 2, (2, 1)),
    ],
)
def test_choice(ranking: Ranking, n: int, order: tuple[int, ...]) -> None:
    assert choose(ranking, n) == order


@pytest.mark.parametrize(
    ("ranking", "n"),
    [(SINGLE, 0), (SINGLE, 4), (WINDOW, 3), (WINDOW, 4), (SET, 1), (SEQUENCE, 3), (SEQUENCE, -1)],
)
def test_a_choice_that_the_ranking_cannot_make_is_refused(ranking: Ranking, n: int) -> None:
    with pytest.raises(LpstepsError, match=f"n: {n}: this {ranking.kind} ranking"):
        choose(ranking, n)


@pytest.mark.parametrize(
    "ranking", [SINGLE, WINDOW, SET, SEQUENCE], ids=lambda ranking: ranking.kind
)
def test_a_ranking_survives_its_file(tmp_path: Path, ranking: Ranking) -> None:
    path = tmp_path / "ranking.parquet"
    write_ranking(path, ranking)
    assert read_ranking(path) == ranking


def test_ranking_file_has_the_documented_schema(tmp_path: Path) -> None:
    path = tmp_path / "ranking.parquet"
    write_ranking(path, WINDOW)
    schema = read_parquet(path).schema
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "n": "int16",
        "round": "int16",
        "layers": "list<element: int16>",
        "score": "double",
        "eligible": "bool",
        "rank": "int32",
    }
    assert schema.metadata == {b"kind": b"window"}


def test_another_parquet_file_is_not_a_ranking(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    write_parquet(path, pa.table({"n": [1]}))
    with pytest.raises(LpstepsError, match="expected a ranking"):
        read_ranking(path)
