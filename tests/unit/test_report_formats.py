from __future__ import annotations

import pytest

from lpsteps.report.formats import (
    format_bytes,
    format_count,
    format_foldable,
    format_interval,
    format_layers,
    format_revision,
    format_share,
    format_training,
    format_value,
)


@pytest.mark.parametrize(
    ("order", "text"),
    [((3, 2, 4), "[2,5)"), ((5, 2), "5, 2"), ((7,), "7"), ((), ""), ((0, 1), "[0,2)")],
)
def test_layers_as_text(order: tuple[int, ...], text: str) -> None:
    assert format_layers(order) == text


@pytest.mark.parametrize(
    ("revision", "text"), [("0.1.2", "0.1.2"), ("abcdef012345" + "6" * 28, "abcdef0123")]
)
def test_revisions_as_text(revision: str, text: str) -> None:
    assert format_revision(revision) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(11.65, "11.65"), (100.0, "100.00"), (2840.377, "2840.38"), (1e9, "1.00e+09")],
)
def test_numbers_as_text(value: float, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (576, "576"),
        (16_384, "16\u202f384"),
        (99_999, "99\u202f999"),
        (331_776, "0.33\u202fM"),
        (33_554_432, "33.55\u202fM"),
        (1_208_000_000, "1.21\u202fG"),
    ],
)
def test_counts_as_text(count: int, text: str) -> None:
    assert format_count(count) == text


def test_shares_intervals_and_words() -> None:
    assert format_share(58.349) == "58.3\u202f%"
    assert format_share(-12.0) == "-12.0\u202f%"
    assert format_interval((52.08, 63.41)) == "[52.1, 63.4]"
    assert format_interval((-0.0838, 0.0121), 3) == "[-0.084, 0.012]"
    assert format_foldable(False, ["matrix", "rotation"]) == "no"
    assert format_foldable(True, []) == "yes"
    assert format_foldable(True, ["scalar"]) == "by scaling"
    assert format_foldable(True, ["rotation", "scalar"]) == "by rotation"
    assert [format_training(True), format_training(False)] == ["trained", "training-free"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0\u202fbytes"),
        (999, "999\u202fbytes"),
        (1000, "1.0\u202fkB"),
        (2_340_000, "2.3\u202fMB"),
        (10**9, "1.0\u202fGB"),
    ],
)
def test_sizes_as_text(count: int, text: str) -> None:
    assert format_bytes(count) == text
