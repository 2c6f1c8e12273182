"""Partitions of a corpus: disjoint, whole groups, the asked share of the text, stable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.data.corpora import join_documents, partition_rows, partition_span
from lpsteps.errors import LpstepsError

SHARES = {"calibration": 0.5, "validation": 0.1, "test": 0.4}


def _all_partitions(groups: list[str], lengths: list[int], seed: int = 0) -> dict[str, list[int]]:
    return {name: partition_rows(groups, lengths, SHARES, seed, name) for name in SHARES}


@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 500)), min_size=1),
    seed=st.integers(0, 5),
)
def test_partitions_divide_the_rows_without_dividing_a_group(
    rows: list[tuple[str, int]], seed: int
) -> None:
    groups = [group for group, _ in rows]
    partitions = _all_partitions(groups, [length for _, length in rows], seed)
    assert sorted(row for part in partitions.values() for row in part) == list(range(len(rows)))
    homes = [{groups[row] for row in part} for part in partitions.values()]
    assert sum(len(home) for home in homes) == len(set(groups))
    assert all(part == sorted(part) for part in partitions.values())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_each_partition_has_its_share_to_within_the_two_groups_at_its_ends(
    lengths: list[int],
) -> None:
    partitions = _all_partitions([str(row) for row in range(len(lengths))], lengths)
    for name, part in partitions.items():
        share = sum(lengths[row] for row in part)
        assert abs(share - SHARES[name] * sum(lengths)) <= max(lengths) + 1e-6


def test_a_partition_depends_on_the_names_of_groups_and_not_on_the_order_of_rows() -> None:
    groups = [f"article {number}" for number in range(40)]
    chosen = {groups[row] for row in partition_rows(groups, [9] * 40, SHARES, 3, "test")}
    backwards = groups[::-1]
    again = {backwards[row] for row in partition_rows(backwards, [9] * 40, SHARES, 3, "test")}
    assert chosen == again
    other_seed = {groups[row] for row in partition_rows(groups, [9] * 40, SHARES, 4, "test")}
    assert chosen != other_seed


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
)
def test_no_group_falls_between_partitions_or_into_two(
    parts: list[int], lengths: list[int]
) -> None:
    """Tenths have no exact sums, and the middles of short groups lie on the borders."""
    shares = {f"p{number}": part / sum(parts) for number, part in enumerate(parts)}
    groups = [str(number) for number in range(len(lengths))]
    homes = [row for name in shares for row in partition_rows(groups, lengths, shares, 0, name)]
    assert sorted(homes) == list(range(len(groups)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 100_000))
def test_spans_follow_each_other_and_leave_nothing_out(parts: list[int], total: int) -> None:
    shares = {f"p{number}": part / sum(parts) for number, part in enumerate(parts)}
    spans = [partition_span(total, shares, name) for name in shares]
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == total
    for span, share in zip(spans, shares.values(), strict=True):
        assert abs(span.stop - span.start - share * total) <= 1 + 1e-6


def test_a_span_is_rounded_down_as_the_released_program_does() -> None:
    shares = {"training": 0.9, "validation": 0.1}
    for total in range(2_000):
        assert partition_span(total, shares, "training") == slice(0, int(total * 0.9))
    with pytest.raises(LpstepsError, match="split: tset: not a partition"):
        partition_span(10, {"test": 1.0}, "tset")


def test_what_is_in_no_share_is_left_out() -> None:
    groups = [str(number) for number in range(100)]
    part = partition_rows(groups, [1] * 100, {"test": 0.25}, 0, "test")
    assert len(part) == 25


def test_one_partition_with_everything_keeps_the_dataset_as_it_is() -> None:
    groups = [str(number) for number in range(50)]
    rows = partition_rows(groups, [0, 7] * 25, {"test": 1.0}, 0, "test")
    assert rows == list(range(50))


@pytest.mark.parametrize(
    ("shares", "partition", "message"),
    [
        (SHARES, "train", "split: train: not a partition; allowed: calibration, test, validation"),
        ({"test": 0.9, "train": 0.2}, "test", "at most 1"),
        ({"test": 0.0}, "test", "positive"),
    ],
)
def test_impossible_partitions_are_refused(
    shares: dict[str, float], partition: str, message: str
) -> None:
    with pytest.raises(LpstepsError, match=message):
        partition_rows(["a"], [1], shares, 0, partition)


@given(st.lists(st.text("ab \n", max_size=5), min_size=1), st.sampled_from(["\n\n", " ", "--"]))
def test_starts_point_at_the_documents(texts: list[str], separator: str) -> None:
    joined = join_documents(texts, [str(row) for row in range(len(texts))], separator)
    ends = [start - len(separator) for start in joined.starts[1:]] + [len(joined.text)]
    found = [joined.text[start:end] for start, end in zip(joined.starts, ends, strict=True)]
    assert found == texts
    assert joined.text == separator.join(texts)
