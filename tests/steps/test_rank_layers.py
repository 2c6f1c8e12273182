"""The rank_layers step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lpsteps.artifacts import write_json, write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.provenance import read_record
from lpsteps.selection import (
    magnitude,
    one_shot_perplexity,
    prune_and_comp,
    sleb,
    taylor,
    window_perplexity,
)
from lpsteps.selection.ranking import Exemptions, choose, ranked_layers, read_ranking
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
    # The last token hardly turns over [2, 4), channels hardly change their course over [1, 3).
    last_token, token_axis = cosine.copy(), cosine.copy()
    last_token[2, 4] = 0.99
    token_axis[1, 3] = 0.99
    means = {"identity": np.ones((N_LAYERS + 1, 4))}
    with StatisticsWriter(
        path, n_layers=N_LAYERS, hidden_size=4, basis_name="sylvester-4", model="tiny"
    ) as writer:
        writer.append(SampleStatistics(8, means, cosine, last_token, token_axis))
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
    [
        ("block_influence", {1: (3,), 2: (3, 0)}),
        ("contiguous_cosine", {1: (3,), 2: (3, 4)}),
        ("angular_distance", {1: (3,), 2: (2, 3)}),
        ("token_axis_cosine", {1: (3,), 2: (1, 2)}),
    ],
)
def test_metrics_on_statistics(
    tmp_path: Path, stats: Path, metric: str, orders: dict[int, tuple[int, ...]]
) -> None:
    assert run(tmp_path, f"--stats={stats}", metric=metric) == 0
    ranking = read_ranking(tmp_path / "ranking.parquet")
    assert {n: choose(ranking, n) for n in orders} == orders


@pytest.mark.parametrize(
    ("metric", "params", "most"),
    [
        ("token_axis_cosine", {}, 4),
        ("contiguous_cosine", {"exempt_first": 3}, 3),
        ("random_layers", {}, 4),
        ("random_window", {}, 4),
        ("uniform", {}, 4),
        ("listed_layers", {"layers": [2, 3]}, 2),
    ],
)
def test_a_metric_may_reach_fewer_layers_than_it_is_asked_for(
    tmp_path: Path, stats: Path, metric: str, params: dict[str, Any], most: int
) -> None:
    counts = list(range(1, N_LAYERS))
    assert run(tmp_path, f"--stats={stats}", metric=metric, params=params, counts=counts) == 0
    ranking = read_ranking(tmp_path / "ranking.parquet")
    assert len(choose(ranking, most)) == most
    with pytest.raises(LpstepsError, match=f"n: {most + 1}: this"):
        choose(ranking, most + 1)


def test_parameters_reach_the_metric(tmp_path: Path, stats: Path) -> None:
    params = {"exempt_last": 2}
    assert run(tmp_path, f"--stats={stats}", metric="contiguous_cosine", params=params) == 0
    assert choose(read_ranking(tmp_path / "ranking.parquet"), 2) == (0, 1)


@pytest.mark.parametrize(
    ("metric", "params", "order"),
    [
        ("last_layers", {}, (5, 4)),
        ("uniform", {}, (2, 4)),
        ("listed_layers", {"layers": [4, 1, 3]}, (4, 1)),
    ],
)
def test_metrics_without_inputs(
    tmp_path: Path, metric: str, params: dict[str, Any], order: tuple[int, ...]
) -> None:
    assert run(tmp_path, metric=metric, params=params) == 0
    assert choose(read_ranking(tmp_path / "ranking.parquet"), 2) == order


@pytest.mark.parametrize(("metric", "fewest"), [("random_layers", 4), ("random_window", 3)])
def test_the_seed_decides_a_random_draw_and_is_recorded(
    tmp_path: Path, metric: str, fewest: int
) -> None:
    orders = set()
    for seed in range(12):
        assert run(tmp_path, metric=metric, seed=seed) == 0
        orders.add(choose(read_ranking(tmp_path / "ranking.parquet"), 2))
    assert len(orders) >= fewest
    assert read_record(tmp_path / "ranking.parquet")["notes"]["seed"] == 11


TEXT = {"windows": 2, "length": 12}
USED = WINDOWS[:2, :12]
IN_MEMORY = {
    "sleb": lambda model: sleb.rank_by_removal(model, WINDOWS, 2, sleb.Params(**TEXT)),
    "prune_and_comp": lambda model: prune_and_comp.rank_by_influence(
        model, WINDOWS, 2, prune_and_comp.Params(**TEXT)
    ),
    "window_perplexity": lambda model: window_perplexity.rank_by_search(
        model, WINDOWS, (1, 2), window_perplexity.Params(**TEXT)
    ),
    "one_shot_perplexity": lambda model: ranked_layers(
        one_shot_perplexity.perplexities(model, USED), Exemptions()
    ),
    "taylor": lambda model: ranked_layers(taylor.importances(model, USED), Exemptions()),
    "magnitude": lambda model: ranked_layers(magnitude.magnitudes(model), Exemptions()),
}


@pytest.mark.parametrize("metric", IN_MEMORY)
def test_metrics_that_run_the_model(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_model_folder: Callable[..., Path],
    metric: str,
) -> None:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(windows, pa.table({"window": range(len(WINDOWS)), "token_ids": token_ids}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    inputs = [f"--model={tiny_model_folder('llama')}", f"--windows={windows}"]
    params = {} if metric == "magnitude" else TEXT
    assert run(tmp_path, *inputs, f"--compute={compute}", metric=metric, params=params) == 0
    expected = IN_MEMORY[metric](tiny_model("llama"))
    found = read_ranking(tmp_path / "ranking.parquet")
    assert found.kind == expected.kind
    for candidate, wanted in zip(found.candidates, expected.candidates, strict=True):
        score = None if wanted.score is None else pytest.approx(wanted.score, rel=1e-6)
        assert candidate.score == score
        assert replace(candidate, score=None) == replace(wanted, score=None)


@pytest.fixture
def model_inputs(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    write_parquet(windows, pa.table({"token_ids": WINDOWS.tolist()}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    model = tiny_model_folder("llama")
    return [f"--model={model}", f"--windows={windows}", f"--compute={compute}"]


def test_a_metric_gets_no_more_text_than_the_calibration_has(
    tmp_path: Path, model_inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec: dict[str, Any] = {"metric": "sleb", "params": TEXT}
    assert run(tmp_path, *model_inputs, **spec, windows=2) == 0
    notes = read_record(tmp_path / "ranking.parquet")["notes"]
    assert (notes["dtype"], notes["device"]) == ("float32", "cpu")
    assert notes["threads"] > 0
    assert run(tmp_path, *model_inputs, **spec, windows=1) == 1
    assert "windows: 2 x 12 tokens: the calibration text has 1 x 16" in capsys.readouterr().err
    assert run(tmp_path, *model_inputs, **spec, windows=5) == 1
    assert "has 4 windows, but windows: 5 are asked for" in capsys.readouterr().err


def test_excluded_tokens_are_refused_where_they_would_count(
    tmp_path: Path, model_inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for metric in sorted(IN_MEMORY.keys() - {"magnitude"}):
        assert run(tmp_path, *model_inputs, metric=metric, params=TEXT, exclude_first=3) == 1
        error = capsys.readouterr().err
        assert "calibration: exclude_first: 3: this method counts every token" in error
        assert error.count("\n") == 1
    # It reads no text.
    assert run(tmp_path, *model_inputs, metric="magnitude", exclude_first=3) == 0


def test_exemptions_reach_a_metric_that_runs_the_model(
    tmp_path: Path, model_inputs: list[str]
) -> None:
    for metric in ("taylor", "one_shot_perplexity", "magnitude"):
        params = {"exempt_first": 3, "exempt_last": 1} | ({} if metric == "magnitude" else TEXT)
        assert run(tmp_path, *model_inputs, metric=metric, params=params) == 0
        assert set(choose(read_ranking(tmp_path / "ranking.parquet"), 2)) == {3, 4}


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
        (
            {"metric": "listed_layers", "params": {"layers": [1, 1]}},
            "mine: params: layers: 1: listed more than once",
        ),
        ({"metric": "listed_layers", "params": {"layers": [6]}}, "layers: 6: the model has layers"),
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
