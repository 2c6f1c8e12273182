"""Which files a profile with figures asks for, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lpsteps import jobs
from lpsteps.config import Config, load_config
from lpsteps.errors import LpstepsError
from lpsteps.report.evidence import parse_build_spec
from lpsteps.report.figure_definitions import list_figures, load_figure, read_figure

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config_with(figures: dict[str, Any], **tables: Any) -> Config:
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    profile |= {"figures": figures, "tables": tables}
    return load_config(profile, ["config/config.yaml"])


def test_figures_ask_for_statistics_plans_and_token_scales() -> None:
    config = config_with(
        {"figure1": {MODEL: [5]}, "figure2": {MODEL: [4, 5]}, "cosines": {MODEL: []}}
    )
    folder = f"results/{MODEL}/calibration/wikipedia"
    inputs = jobs.table_inputs(config)
    assert inputs["statistics"] == [f"{folder}/stats.parquet"]
    assert inputs["token_scales"] == [
        f"{folder}/selection/llm-streamline/n{n}/token_scales.parquet" for n in (4, 5)
    ]
    assert inputs["plans"] == [f"{folder}/selection/llm-streamline/n{n}/plan.json" for n in (4, 5)]
    assert inputs["scores"] == inputs["patches"] == []
    spec = parse_build_spec(jobs.build_tables_spec(config))
    assert spec.figures["figure2"] == {MODEL: [4, 5]} and spec.figures["cosines"] == {MODEL: []}
    assert {plan.n for plan in spec.plans.values()} == {4, 5}
    assert jobs.models(config) == list(spec.models) == [MODEL]


def test_a_figure_of_token_scales_alone_needs_no_statistics_of_its_own() -> None:
    assert jobs.table_inputs(config_with({"figure2": {MODEL: [3]}}))["statistics"] == []


def test_without_figures_nothing_is_asked_for() -> None:
    inputs = jobs.table_inputs(config_with({}, table08={MODEL: [3]}))
    assert inputs["statistics"] == inputs["token_scales"] == []


def test_token_scales_are_measured_on_the_text_of_the_calibration() -> None:
    config = config_with({"figure2": {MODEL: [3]}})
    spec = jobs.measure_token_scales_spec(config, "wikipedia")
    expected = jobs.calibrate_spec(config, "wikipedia")
    assert {key: spec[key] for key in ("windows", "exclude_first", "basis")} == {
        key: expected[key] for key in ("windows", "exclude_first", "basis")
    }


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"figure3x": {}}, r"figures: figure 'figure3x' is not defined; did you mean 'figure"),
        ({"figure1": {"smollm": [5]}}, r"figures\.figure1\.smollm: model 'smollm' is not defined"),
        (
            {"figure4": {MODEL: [30]}},
            rf"figures\.figure4\.{MODEL}: 30: cannot remove 30 layers .*; allowed: 1 to 29",
        ),
        ({"figure4": {MODEL: [5, 5]}}, r"\[5, 5\]: a number of layers is listed twice"),
        (
            {"figure2": {MODEL: []}},
            rf"figures\.figure2\.{MODEL}: \[\]: name the numbers of removed layers to draw",
        ),
        ({"figure4": {MODEL: [0]}}, r"figures\.figure4"),
    ],
)
def test_mistakes_are_one_line(figures: dict[str, Any], message: str) -> None:
    with pytest.raises(LpstepsError, match=message) as caught:
        config_with(figures)
    assert "\n" not in str(caught.value)


@pytest.fixture
def figure_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """Load a profile with a figure of a selection."""
    definition = load_figure("figure1")

    def load(selection: str) -> Config:
        changed = definition.model_copy(update={"selection": selection})
        monkeypatch.setattr("lpsteps.config.loading.load_figure", lambda name: changed)
        return config_with({"figure1": {MODEL: [5]}})

    return load


@pytest.mark.parametrize("selection", ["sleb", "uniform"])
def test_a_figure_shows_a_selection_of_one_window(
    figure_of: Callable[[str], Config], selection: str
) -> None:
    message = rf"selection: {selection}: does not remove one window"
    with pytest.raises(LpstepsError, match=message) as error:
        figure_of(selection)
    assert "llm-streamline" in str(error.value) and "allowed: " in str(error.value)


def test_a_figure_may_show_a_random_window(figure_of: Callable[[str], Config]) -> None:
    assert figure_of("random-window").figures["figure1"].selection == "random-window"


def test_a_figure_of_a_selection_that_is_not_defined(figure_of: Callable[[str], Config]) -> None:
    with pytest.raises(LpstepsError, match="'sleeb' is not defined; did you mean 'sleb'"):
        figure_of("sleeb")


def test_the_papers_figures_with_measured_data_are_there() -> None:
    numbers = {load_figure(name).number for name in list_figures()}
    assert numbers >= {1, 2, 4, None} and 3 not in numbers  # a schematic


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "other"}, "id: 'other': must be the file's name, 'mine'"),
        ({"kind": "pie"}, "kind: 'pie': "),
        ({"captoin": ""}, "captoin: unknown key, did you mean 'caption'?"),
        (
            {"printed": [{"model": "m", "n": 1, "basis": "hadamard", "value": 1, "where": "x"}]},
            "kind token_scales alone has values beside it",
        ),
    ],
)
def test_a_wrong_definition_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.yaml"
    right = {"id": "mine", "title": "T", "caption": "C", "kind": "cosine_map"}
    path.write_text(yaml.safe_dump(right))
    assert read_figure(path).selection == "llm-streamline"
    path.write_text(yaml.safe_dump(right | change))
    with pytest.raises(LpstepsError) as caught:
        read_figure(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_an_unknown_figure_is_answered_with_the_nearest() -> None:
    with pytest.raises(LpstepsError, match=r"no such figure: did you mean 'cosines'"):
        load_figure("cosine")
