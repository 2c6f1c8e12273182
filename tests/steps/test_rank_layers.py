"""The rank_layers step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lpsteps.artifacts import write_json, write_parquet
from lpsteps.provenance import read_record
from lpsteps.selection import sleb
from lpsteps.selection.ranking import choose, read_ranking
from lpsteps.statistics import SampleStatistics, StatisticsWriter
from lpsteps.steps.rank_layers import main

N_LAYERS = 6
WINDOWS = np.random.default_rng(0).integers(3, 128, (4, 16))


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    """Statistics in which the stream turns least over layer 3 and over the window [3, 5)."""
    path = tmp_path / "stats.parquet"
    cosine = np.fromfunction(lambda i, j: 1 - abs(i - j) / 10, (N_LAYERS + 1, N_LAYERS + 1))
    cosine[3, 4] = cosine[4, 3] = 0.97
    cosine[3, 5] = cosine[5, 3] = 0.95
    with StatisticsWriter(
        path, n_layers=N_LAYERS, hidden_size=4, basis_name="sylvester-4", model="tiny"
    ) as writer:
        writer.append(SampleStatistics(8, {"identity": np.ones((N_LAYERS + 1, 4))}, cosine))
    return path


def run(tmp_path: Path, *arguments: str, **spec: Any) -> int:
    complete = {"selection": "mine", "n_layers": N_LAYERS, "counts": [2, 1]} | spec
    return main(
        [
            f"--ranking={tmp_path / 'ranking.parquet'}",
            f"--log={tmp_path / 'log.txt'}",
            f"--spec={json.dumps(complete)}",
            *arguments,
        ]
    )


@pytest.mark.parametrize(
    ("metric", "orders"),
    [("block_influence", {1: (3,), 2: (3, 0)}), ("contiguous_cosine", {1: (3,), 2: (3, 4)})],
)
def test_metrics_on_statistics(
    tmp_path: Path, stats: Path, metric: str, orders: dict[int, tuple[int, ...]]
) -> None:
    assert run(tmp_path, f"--stats={stats}", metric=metric) == 0
    ranking = read_ranking(tmp_path / "ranking.parquet")
    assert {n: choose(ranking, n) for n in orders} == orders


def test_parameters_reach_the_metric(tmp_path: Path, stats: Path) -> None:
    params = {"exempt_last": 2}
    assert run(tmp_path, f"--stats={stats}", metric="contiguous_cosine", params=params) == 0
    assert choose(read_ranking(tmp_path / "ranking.parquet"), 2) == (0, 1)


def test_metrics_without_inputs(tmp_path: Path) -> None:
    assert run(tmp_path, metric="last_layers") == 0
    assert choose(read_ranking(tmp_path / "ranking.parquet"), 2) == (5, 4)


def test_the_seed_decides_a_random_draw_and_is_recorded(tmp_path: Path) -> None:
    orders = set()
    for seed in range(12):
        assert run(tmp_path, metric="random_layers", seed=seed) == 0
        orders.add(choose(read_ranking(tmp_path / "ranking.parquet"), 2))
    assert len(orders) > 3
    assert read_record(tmp_path / "ranking.parquet")["notes"]["seed"] == 11


def test_a_metric_that_runs_the_model(
    tmp_path: Path, tiny_model: Callable[..., Any], tiny_model_folder: Callable[..., Path]
) -> None:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(windows, pa.table({"window": range(len(WINDOWS)), "token_ids": token_ids}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    params = {"windows": 2, "length": 12}
    assert (
        run(
            tmp_path,
            f"--model={tiny_model_folder('llama')}",
            f"--windows={windows}",
            f"--compute={compute}",
            metric="sleb",
            params=params,
        )
        == 0
    )
    expected = sleb.rank_by_removal(tiny_model("llama"), WINDOWS, 2, sleb.Params(**params))
    found = read_ranking(tmp_path / "ranking.parquet")
    assert [row.layers for row in found.candidates] == [row.layers for row in expected.candidates]
    assert [row.rank for row in found.candidates] == [row.rank for row in expected.candidates]
    scores = [row.score for row in expected.candidates]
    assert [row.score for row in found.candidates] == [
        None if score is None else pytest.approx(score, rel=1e-6) for score in scores
    ]


def test_second_run_gives_the_same_bytes(tmp_path: Path, stats: Path) -> None:
    contents = []
    for _ in range(2):
        assert run(tmp_path, f"--stats={stats}", metric="contiguous_cosine") == 0
        contents.append((tmp_path / "ranking.parquet").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"metric": "block_influense"}, "did you mean 'block_influence'"),
        ({"metric": "last_layers", "params": {"keep": True}}, "mine: params: keep: unknown key"),
        ({"metric": "sleb", "params": {"windows": 0, "length": 4}}, "params: windows: 0: "),
        ({"metric": "sleb", "params": {"windows": 1, "length": 4}}, "--model, --windows and"),
        ({"metric": "block_influence"}, "--stats: required by this selection"),
        ({"metric": "last_layers", "counts": [6]}, "counts: 6: allowed are 1 to 5"),
        ({"metric": "last_layers", "counts": [2, 0]}, "counts: 0: allowed are 1 to 5"),
        ({"metric": "last_layers", "counts": []}, "counts: "),
        ({"metric": "random_layers", "counts": [5]}, "n: 5: this single ranking has 4 layers"),
        ({"metric": "last_layers", "count": 3}, "count: unknown key, did you mean 'counts'"),
        ({}, "--spec: metric: required"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], message: str
) -> None:
    assert run(tmp_path, **spec) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ranking.parquet").exists()


def test_ragged_windows_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model_folder: Callable[..., Path]
) -> None:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    write_parquet(windows, pa.table({"token_ids": [[1, 2, 3], [4, 5]]}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    inputs = [f"--model={tiny_model_folder('llama')}", f"--windows={windows}"]
    params = {"windows": 1, "length": 2}
    assert run(tmp_path, *inputs, f"--compute={compute}", metric="sleb", params=params) == 1
    assert "expected windows of one length" in capsys.readouterr().err
