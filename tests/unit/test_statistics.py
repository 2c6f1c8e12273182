"""The statistics file: what goes in comes out, and a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpsteps.errors import LpstepsError
from lpsteps.statistics import SampleStatistics, Statistics, StatisticsWriter

N_LAYERS, HIDDEN_SIZE, SAMPLES = 4, 6, 3


def random_samples() -> list[SampleStatistics]:
    generator = np.random.default_rng(0)
    samples = []
    for tokens in range(10, 10 + SAMPLES):
        cosines = generator.uniform(-1, 1, (3, N_LAYERS + 1, N_LAYERS + 1))
        cosines = (cosines + cosines.swapaxes(1, 2)) / 2
        cosines[:, range(N_LAYERS + 1), range(N_LAYERS + 1)] = 1.0
        means = {
            basis: generator.uniform(0, 9, (N_LAYERS + 1, HIDDEN_SIZE))
            for basis in ("identity", "hadamard")
        }
        samples.append(SampleStatistics(tokens, means, *cosines))
    return samples


def write(path: Path, samples: list[SampleStatistics]) -> Path:
    with StatisticsWriter(
        path, n_layers=N_LAYERS, hidden_size=HIDDEN_SIZE, basis_name="a basis", model="a model"
    ) as writer:
        for sample in samples:
            writer.append(sample)
    return path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    samples = random_samples()
    statistics = Statistics.read(write(tmp_path / "stats.parquet", samples))
    assert (statistics.basis_name, statistics.model) == ("a basis", "a model")
    assert (statistics.n_layers, statistics.hidden_size) == (N_LAYERS, HIDDEN_SIZE)
    assert statistics.tokens.tolist() == [10, 11, 12]
    for number, sample in enumerate(samples):
        for boundary in range(N_LAYERS + 1):
            for basis in ("identity", "hadamard"):
                means = statistics.mean_absolute(boundary, basis)
                assert means.shape == (SAMPLES, HIDDEN_SIZE)
                assert np.array_equal(means[number], sample.mean_absolute[basis][boundary])
        assert np.array_equal(statistics.pairs[number], sample.cosine)
        assert statistics.last_token_pairs is not None
        assert np.array_equal(statistics.last_token_pairs[number], sample.last_token_cosine)
        assert statistics.token_axis_pairs is not None
        assert np.array_equal(statistics.token_axis_pairs[number], sample.token_axis_cosine)


@pytest.mark.parametrize("n", range(1, N_LAYERS + 1))
def test_cosines_compare_each_boundary_with_the_one_n_later(tmp_path: Path, n: int) -> None:
    samples = random_samples()
    statistics = Statistics.read(write(tmp_path / "stats.parquet", samples))
    for name, found in (
        ("cosine", statistics.cosines(n)),
        ("last_token_cosine", statistics.last_token_cosines(n)),
        ("token_axis_cosine", statistics.token_axis_cosines(n)),
    ):
        expected = [
            [getattr(sample, name)[start, start + n] for start in range(N_LAYERS - n + 1)]
            for sample in samples
        ]
        assert np.array_equal(found, expected), name


def test_cosines_that_were_not_measured(tmp_path: Path) -> None:
    samples = [
        SampleStatistics(sample.tokens, sample.mean_absolute, sample.cosine)
        for sample in random_samples()
    ]
    statistics = Statistics.read(write(tmp_path / "stats.parquet", samples))
    assert statistics.cosines(1)[0, 0] == samples[0].cosine[0, 1]
    with pytest.raises(LpstepsError, match="--stats: last_token_cosine: not in these statistics"):
        statistics.last_token_cosines(1)
    with pytest.raises(LpstepsError, match="--stats: token_axis_cosine: not in these statistics"):
        statistics.token_axis_cosines(1)


def test_file_follows_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path / "stats.parquet", random_samples())
    table = pq.read_table(path)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("sample", "int32"),
        ("statistic", "string"),
        ("basis", "string"),
        ("boundary", "int16"),
        ("other", "int16"),
        ("tokens", "int32"),
        ("values", "list<element: double>"),
    ]
    assert pq.ParquetFile(path).num_row_groups == SAMPLES
    rows = table.slice(0, len(table) // SAMPLES).to_pylist()
    means = [row for row in rows if row["statistic"] == "mean_absolute"]
    assert [(row["basis"], row["boundary"], row["other"]) for row in means] == [
        (basis, boundary, None)
        for basis in ("identity", "hadamard")
        for boundary in range(N_LAYERS + 1)
    ]
    cosines = rows[len(means) :]
    assert [(row["statistic"], row["basis"], row["boundary"], row["other"]) for row in cosines] == [
        (name, "", i, j)
        for name in ("cosine", "last_token_cosine", "token_axis_cosine")
        for i in range(N_LAYERS + 1)
        for j in range(i + 1, N_LAYERS + 1)
    ]
    assert all(len(row["values"]) == 1 for row in cosines)


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "first.parquet", random_samples())
    second = write(tmp_path / "second.parquet", random_samples())
    assert first.read_bytes() == second.read_bytes()


def test_unknown_basis_is_named(tmp_path: Path) -> None:
    statistics = Statistics.read(write(tmp_path / "stats.parquet", random_samples()))
    with pytest.raises(LpstepsError, match="basis: hadamrd: did you mean 'hadamard'"):
        statistics.mean_absolute(0, "hadamrd")


def test_missing_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "stats.parquet", random_samples())
    table = pq.read_table(path)
    first_cosine = 2 * (N_LAYERS + 1)
    for missing in (0, first_cosine, len(table) - 1):
        kept = np.arange(len(table)) != missing
        pq.write_table(table.filter(pa.array(kept)), path)
        with pytest.raises(LpstepsError, match="incomplete"):
            Statistics.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(LpstepsError, match="not a statistics file"):
        Statistics.read(path)
    with pytest.raises(LpstepsError, match=r"missing\.parquet"):
        Statistics.read(tmp_path / "missing.parquet")
