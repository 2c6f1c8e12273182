"""What the figures draw, from tiny statistics whose numbers are known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpsteps.errors import LpstepsError
from lpsteps.plan import Plan
from lpsteps.report.evidence import BuildSpec, Evidence, Sourced, parse_build_spec
from lpsteps.report.figure_data import (
    Magnitudes,
    build_figures,
    channel_magnitudes,
    cosine_map,
    figure_csv,
    layer_magnitudes,
    token_scales,
)
from lpsteps.report.figure_definitions import FigureDefinition
from lpsteps.statistics import SampleStatistics, StatisticsWriter
from lpsteps.token_scales import Ratios, ScalesFile, TokenScales, write_token_scales

LAYERS, CHANNELS = 3, 4
FOLDER = "results/m/calibration/c"
CUT = f"{FOLDER}/selection/s/n2"
# By boundary and channel; the second sample has twice as much everywhere.
MEANS = np.array([[1, 2, 3, 4], [10, 1, 1, 2], [5, 5, 5, 5], [20, 4, 0.5, 1]], dtype=float)


def magnitudes() -> Magnitudes:
    distances = np.abs(np.subtract.outer(range(LAYERS + 1), range(LAYERS + 1)))
    return Magnitudes(1.5 * MEANS, 1.0 - 0.123456 * distances)


def test_statistics_become_means_over_windows(tmp_path: Path) -> None:
    write_statistics(tmp_path / "stats.parquet")
    found = Magnitudes.read(tmp_path / "stats.parquet")
    np.testing.assert_allclose(found.channels, magnitudes().channels)
    np.testing.assert_allclose(found.cosines, magnitudes().cosines)


def write_statistics(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"n_layers": LAYERS, "hidden_size": CHANNELS, "basis_name": "b", "model": "m"}
    with StatisticsWriter(path, **options) as writer:
        for factor in (1.0, 2.0):
            writer.append(
                SampleStatistics(
                    7,
                    {"identity": factor * MEANS, "hadamard": MEANS + 9},
                    magnitudes().cosines,
                )
            )


def test_channels_at_every_boundary_and_at_the_cut() -> None:
    data = channel_magnitudes(magnitudes(), 1, 3)
    assert data["bins"] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert data["heat"] == (1.5 * MEANS).tolist()
    # By magnitude at boundary 1; of equal ones the first channel first.
    assert data["ends"] == {
        "channels": [0, 3, 1, 2],
        "before": [15.0, 3.0, 1.5, 1.5],
        "behind": [30.0, 1.5, 6.0, 0.75],
    }
    ratios = np.quantile([2.0, 4.0, 0.5, 0.5], [0.05, 0.5, 0.95])
    assert data["ratios"] == pytest.approx(ratios, rel=1e-3)


def test_many_channels_are_thinned_to_the_largest_of_each_bin() -> None:
    channels = np.random.default_rng(0).random((2, 1000))
    data = channel_magnitudes(Magnitudes(channels, np.eye(2)), 0, 1)
    assert len(data["bins"]) == 64 and data["bins"][0][0] == 0 and data["bins"][-1][1] == 1000
    for (first, last), value in zip(data["bins"], data["heat"][1], strict=True):
        assert value == pytest.approx(channels[1, first:last].max(), rel=1e-3)
    drawn = data["ends"]["channels"]
    assert len(set(drawn)) == 120
    assert drawn[0] == channels[0].argmax() and drawn[-1] == channels[0].argmin()
    assert data["ends"]["before"] == sorted(data["ends"]["before"], reverse=True)


def test_layers_show_their_outputs() -> None:
    assert layer_magnitudes(magnitudes()) == {
        "mean": [5.25, 7.5, 9.562],
        "largest": [15.0, 7.5, 30.0],
        "channel": [0, 0, 0],
    }


def test_cosines_of_every_window() -> None:
    data = cosine_map(magnitudes())
    assert data == {"cosines": [[0.87654, 0.75309, 0.62963], [0.87654, 0.75309], [0.87654]]}


def scales() -> ScalesFile:
    """One first token with a ratio of 1000, and others of 1 and of 0."""
    identity = TokenScales(Ratios.of(np.array([1000.0])), Ratios.of(np.array([1.0] * 98 + [0.0])))
    even = TokenScales(Ratios.of(np.array([2.0])), Ratios.of(np.array([2.0] * 99)))
    return ScalesFile(1, 3, 1e-6, 5, 100, {"identity": identity, "hadamard": even})


def test_distributions_are_thinned_to_tenths_of_decades() -> None:
    data = token_scales(scales())
    found = data["bases"]["identity"]
    values = np.array([1000.0] + [1.0] * 98 + [0.0])
    assert (found["count"], found["below"], found["above"]) == (100, 1, 0)
    assert found["sigma"] == pytest.approx(values.std(), rel=1e-3)
    assert found["others"]["sigma"] == pytest.approx(values[1:].std(), rel=1e-3)
    assert (found["edges"][0], found["edges"][-1]) == (1.0, 1259.0)
    assert len(found["counts"]) == len(found["edges"]) - 1 == 31
    assert (found["counts"][0], found["counts"][-1], sum(found["counts"])) == (98, 1, 99)
    assert data["bases"]["hadamard"]["sigma"] == 0.0
    assert len(data["bases"]["hadamard"]["counts"]) == 1


def settings(figures: dict[str, dict[str, list[int]]]) -> BuildSpec:
    model = {"title": "Model M", "n_layers": LAYERS, "hidden_size": CHANNELS, "source": "f"}
    return parse_build_spec(
        {
            "profile": "p",
            "calibration": "c",
            "tables": {},
            "figures": figures,
            "models": {"m": {**model, "revision": None, "parameters": 100, "layer_parameters": 10}},
            "variants": {},
            "plans": {CUT: {"model": "m", "n": 2, "calibration": "c", "selection": "s"}},
            "benchmarks": {},
            "selections": {},
            "recoveries": {},
        }
    )


KINDS = ("channel_magnitudes", "token_scales", "layer_magnitudes", "cosine_map")
DEFINITIONS = [
    FigureDefinition(
        id=kind.replace("_", "-"),
        title=kind,
        caption="C",
        kind=kind,
        selection="s",
        printed=(
            [
                {"model": "m", "n": 2, "basis": "identity", "value": 7.5, "where": "here"},
                {"model": "m", "n": 1, "basis": "hadamard", "value": 9.5, "where": "there"},
            ]
            if kind == "token_scales"
            else []
        ),
    )
    for kind in KINDS
]
PATHS = [f"{CUT}/plan.json", f"{CUT}/token_scales.parquet", f"{FOLDER}/stats.parquet"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_statistics(Path(FOLDER, "stats.parquet"))
    Path(CUT).mkdir(parents=True)
    write_token_scales(Path(CUT, "token_scales.parquet"), scales())
    Path(CUT, "plan.json").write_text("{}")
    return tmp_path


def figures(
    asked: dict[str, list[int]] | None = None,
    problems: dict[str, str] | None = None,
    removed: tuple[int, ...] = (2, 1),
) -> list[dict[str, Any]]:
    asked = asked or {definition.id: [2] for definition in DEFINITIONS}
    key = ("m", "c", "s", 2)
    plan = Sourced(PATHS[0], "0", Plan.removing(LAYERS, removed))
    evidence = Evidence({}, {key: CUT}, {}, {key: plan}, {}, {}, problems=problems or {})
    spec = settings({figure: {"m": counts} for figure, counts in asked.items()})
    return build_figures(spec, DEFINITIONS, PATHS, evidence)


def test_a_level_out_of_reach_leaves_a_panel_with_the_reason(run: Path) -> None:
    evidence = Evidence({}, {}, {}, {}, {}, {})
    spec = settings({"layer-magnitudes": {"m": [2]}})
    reasons = {"s": {"m": {2: "too few layers"}}}
    spec = spec.model_copy(update={"plans": {}, "unsuited_selections": reasons})
    (found,) = (
        each for each in build_figures(spec, DEFINITIONS, PATHS, evidence) if each["panels"]
    )
    (panel,) = found["panels"]
    assert (panel["data"], panel["reason"]) == (None, "too few layers")


def test_every_kind_is_built_with_its_sources(run: Path) -> None:
    built = {figure["kind"]: figure for figure in figures()}
    assert list(built) == list(KINDS)
    assert json.loads(json.dumps(list(built.values()))) == list(built.values())
    panels = {kind: figure["panels"][0] for kind, figure in built.items()}
    for kind, panel in panels.items():
        assert (panel["title"], panel["levels"], panel["windows"]) == ("Model M", [2], [[1, 3]])
        paths = [source["path"] for source in panel["sources"]]
        assert paths == [PATHS[0], PATHS[1] if kind == "token_scales" else PATHS[2]]
        assert all(len(source["sha256"]) == 64 for source in panel["sources"])
    expected = channel_magnitudes(magnitudes(), 1, 3)
    assert panels["channel_magnitudes"]["data"] == expected
    assert panels["cosine_map"]["data"] == cosine_map(magnitudes())
    assert panels["token_scales"]["data"] == {
        **token_scales(scales()),
        "printed": {"identity": {"value": 7.5, "where": "here"}},
    }


def test_a_map_is_drawn_once_and_without_windows_too(run: Path) -> None:
    asked = {"cosine-map": [], "layer-magnitudes": []}
    built = {figure["kind"]: figure["panels"] for figure in figures(asked)}
    [panel] = built["cosine_map"]
    assert panel["windows"] == [] and panel["data"] == cosine_map(magnitudes())
    assert built["layer_magnitudes"] == built["token_scales"] == []


@pytest.mark.parametrize("path", PATHS)
def test_what_does_not_verify_is_not_drawn(run: Path, path: str) -> None:
    Path(path).write_text("not even a file of its kind")
    for figure in figures(problems={path: f"{path}: was changed"}):
        panel = figure["panels"][0]
        uses = path == PATHS[0] or (path == PATHS[1]) == (figure["kind"] == "token_scales")
        assert (panel["data"] is None) == uses
        assert panel["reason"] == (f"{path}: was changed" if uses else None)


def test_layers_that_are_no_neighbours_are_not_drawn_as_one_window(run: Path) -> None:
    for figure in figures(removed=(0, 2)):
        panel = figure["panels"][0]
        assert panel["data"] is None and panel["windows"] == []
        assert panel["reason"] == f"{PATHS[0]}: removes 2 windows of layers; a figure draws one"


def test_scales_of_another_cut_are_refused(run: Path) -> None:
    other = scales()
    write_token_scales(
        Path(PATHS[1]), ScalesFile(0, 2, 1e-6, other.windows, other.tokens, other.bases)
    )
    with pytest.raises(LpstepsError, match=r"layers \[0,2\): the plan removes \[1,3\)"):
        figures()


def test_a_level_without_a_plan_is_a_mistake_of_the_settings(run: Path) -> None:
    with pytest.raises(LpstepsError, match=r"figures\.layer-magnitudes\.m: 1: `plans` has none"):
        figures({"layer-magnitudes": [1]})


def test_every_drawn_number_is_in_the_csv(run: Path) -> None:
    payload = {"figures": figures()}
    found = {
        definition.kind: list(csv.DictReader(io.StringIO(figure_csv(payload, definition.id))))
        for definition in DEFINITIONS
    }
    boundaries, ends = (LAYERS + 1) * CHANNELS, 2 * CHANNELS
    counts = {kind: len(rows) for kind, rows in found.items()}
    assert counts == {
        "channel_magnitudes": boundaries + ends,
        "token_scales": 31 + 1,
        "layer_magnitudes": 2 * LAYERS,
        "cosine_map": LAYERS * (LAYERS + 1) // 2,
    }
    assert found["cosine_map"][1] == {
        "model": "m",
        "n": "",
        "series": "2 layers from layer x",
        "x": "0",
        "value": "0.75309",
    }
    last = found["channel_magnitudes"][-1]
    assert (last["series"], last["x"], last["value"]) == ("channel x, behind the cut", "2", "0.75")
    first = found["token_scales"][0]
    assert (first["n"], first["x"], first["value"]) == ("2", "1.995", "100")
