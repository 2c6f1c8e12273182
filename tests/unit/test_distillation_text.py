"""The text of a distillation: several corpora, shuffled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lpsteps.artifacts import write_parquet
from lpsteps.distillation.text import drawn_windows, joined_windows
from lpsteps.errors import LpstepsError


@pytest.fixture
def corpora(tmp_path: Path) -> list[str]:
    """Two corpora of windows of 3 tokens and one of 4, as values of an option."""
    values = []
    for name, windows in {
        "first": [[1, 2, 3], [4, 5, 6]],
        "second": [[7, 8, 9], [10, 11, 12], [13, 14, 15]],
        "longer": [[1, 2, 3, 4]],
    }.items():
        path = tmp_path / f"{name}.parquet"
        write_parquet(path, pa.table({"token_ids": pa.array(windows, pa.list_(pa.int32()))}))
        values.append(f"{name}={path}")
    return values


def test_corpora_are_joined_in_order_and_every_file_is_registered(corpora: list[str]) -> None:
    read: list[str] = []

    def register(path: Path) -> Path:
        read.append(path.stem)
        return path

    found = joined_windows("--fit", [corpora[1], corpora[0]], [2, None], register)
    assert found.tolist() == [[7, 8, 9], [10, 11, 12], [1, 2, 3], [4, 5, 6]]
    assert read == ["second", "first"]


def test_mistakes_are_named(corpora: list[str]) -> None:
    first, second, longer = corpora
    for values, counts, message in [
        ([first, second], [None], r"--fit: 2 files, but the spec counts windows of 1"),
        (["first"], [None], r"--fit: first: expected CORPUS=PATH"),
        ([first, longer], [None, None], r"--fit: longer: its windows have 4 tokens, .* it 3;"),
        ([first], [3], r"first.parquet: has 2 windows, but windows: 3"),
    ]:
        with pytest.raises(LpstepsError, match=message):
            joined_windows("--fit", values, counts, lambda path: path)  # type: ignore[arg-type]


def test_windows_are_drawn_from_the_whole_text_without_repetition() -> None:
    windows = np.arange(80).reshape(40, 2)
    drawn = drawn_windows(windows, 10, seed=3)
    np.testing.assert_array_equal(drawn, windows[np.random.default_rng(3).permutation(40)[:10]])
    assert drawn[:, 0].max() > 40
    whole = drawn_windows(windows, None, seed=3)
    np.testing.assert_array_equal(whole[:10], drawn)
    assert sorted(whole[:, 0].tolist()) == windows[:, 0].tolist()
    assert not np.array_equal(drawn_windows(windows, 10, seed=4), drawn)
    with pytest.raises(LpstepsError, match="windows: 41: the training text has 40"):
        drawn_windows(windows, 41, seed=3)
