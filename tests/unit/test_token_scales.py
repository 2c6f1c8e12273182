"""Token-wise ratios and their summary, against NumPy on all of them at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lpsteps.artifacts import write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.token_scales import (
    QUANTILES,
    Ratios,
    ScalesFile,
    TokenScales,
    bin_edges,
    read_token_scales,
    token_ratios,
    write_token_scales,
)


def test_ratios_token_by_token() -> None:
    source = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -8.0]])
    target = np.array([[-2.0, 1.0, 3.0], [6.0, 0.0, 4.0]])
    expected = [[2.0, 0.5, 1.0], [6.0 / (0.01 * 4.0), 0.0, 0.5]]
    np.testing.assert_allclose(token_ratios(source, target, 0.01), expected)


def test_the_floor_follows_the_scale_of_its_token() -> None:
    source = np.random.default_rng(0).normal(size=(5, 8)) * np.array([[1e-6], [1], [1], [1], [1e9]])
    source[:, 3] = 0.0
    target = 3 * source + source.mean(axis=1, keepdims=True)
    ratios = token_ratios(source, target, 1e-3)
    np.testing.assert_allclose(token_ratios(1e5 * source, 1e5 * target, 1e-3), ratios, rtol=1e-12)


def test_where_both_sides_are_silent_the_ratio_is_zero() -> None:
    assert token_ratios(np.zeros((1, 3)), np.zeros((1, 3)), 1e-6).tolist() == [[0.0] * 3]


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_add_up_to_the_whole(parts: int) -> None:
    """Also with outliers that make sums of squares cancel."""
    values = np.exp(np.random.default_rng(1).normal(0, 4, 1000)) + 1e6
    summed = Ratios.of(np.empty(0))
    for part in np.array_split(values, parts):
        summed = summed + Ratios.of(part)
    assert summed.count == 1000
    assert summed.mean == pytest.approx(values.mean(), rel=1e-14)
    assert summed.sigma == pytest.approx(values.std(), rel=1e-9)
    assert summed.largest == values.max()
    assert summed.histogram.tolist() == Ratios.of(values).histogram.tolist()


def test_every_ratio_is_counted_once_at_its_place() -> None:
    edges = bin_edges()
    values = np.array([0.0, edges[0], edges[1], 1.0, 1.0 * (1 + 1e-9), edges[-1], 1e30])
    histogram = Ratios.of(values).histogram
    assert histogram.sum() == len(values) and len(histogram) == len(edges) + 1
    expected = {0: 1, 1: 1, 2: 1, len(histogram) - 1: 2, int(np.searchsorted(edges, 1.0)) + 1: 2}
    assert {int(i): int(histogram[i]) for i in np.flatnonzero(histogram)} == expected


def test_quantiles_are_within_a_bin() -> None:
    values = np.exp(np.random.default_rng(2).normal(0, 2, 20_000))
    ratios = Ratios.of(values)
    for probability in QUANTILES:
        exact = np.quantile(values, probability)
        assert abs(np.log10(ratios.quantile(probability) / exact)) < 1 / 50


def test_quantiles_outside_of_the_bins_are_their_ends() -> None:
    ratios = Ratios.of(np.array([0.0] * 5 + [1e20] * 5))
    assert ratios.quantile(0.2) == bin_edges()[0] and ratios.quantile(0.9) == bin_edges()[-1]


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    bases = {
        name: TokenScales(
            Ratios.of(generator.random((1, 6)) * 9), Ratios.of(generator.random((4, 6)))
        )
        for name in ("identity", "hadamard")
    }
    path = tmp_path / "token_scales.parquet"
    write_token_scales(path, ScalesFile(2, 5, 1e-6, 3, 5, bases))
    read = read_token_scales(path)
    assert (read.start, read.end, read.epsilon, read.windows, read.tokens) == (2, 5, 1e-6, 3, 5)
    for name, scales in bases.items():
        for kind in ("first", "others", "all"):
            found, expected = getattr(read.bases[name], kind), getattr(scales, kind)
            assert (found.count, found.mean, found.sigma, found.largest) == (
                expected.count,
                expected.mean,
                expected.sigma,
                expected.largest,
            )
            assert found.histogram.tolist() == expected.histogram.tolist()
    assert read.bases["identity"].all.count == 30


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token_scales.parquet"
    write_parquet(path, pa.table({"basis": ["identity"]}))
    with pytest.raises(LpstepsError, match=r"token_scales\.parquet: holds no token-wise scalings"):
        read_token_scales(path)
