"""A method meets no calibration whose text it cannot use: the config says so before any job."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from lpsteps import methods
from lpsteps.config import Config, read_config
from lpsteps.config.method_text_checks import check_text_of_methods
from lpsteps.errors import LpstepsError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def showing(selection: str, recovery: str = "none", **calibration: Any) -> Config:
    """The full profile with a table of one row, on a changed calibration."""
    config = read_config(Path("config/full.yaml"))
    table = config.tables["table01"]
    changed = {"selection": selection, "recovery": recovery, "calibration": None}
    row = table.rows[-1].model_copy(update=changed)
    text = config.definitions.calibrations["wikipedia"].model_copy(update=calibration)
    config.definitions.calibrations["wikipedia"] = text
    tables = {"table01": table.model_copy(update={"rows": (row,)})}
    return config.model_copy(update={"tables": tables, "figures": {}})


EXCLUDED = "config/data.yaml: calibrations.wikipedia.exclude_first: 4: "


@pytest.mark.parametrize(
    ("selection", "recovery", "counting"),
    [
        ("sleb", "none", "selections.sleb"),
        ("repair-aware", "least-squares", "selections.repair-aware"),
        ("llm-pruner", "none", "width_prunings.llm-pruner"),
        ("shortgpt", "branch-refit", "recoveries.branch-refit"),
        ("shortgpt", "streamline-layer", "recoveries.streamline-layer"),
        # What a distillation starts from is built on the calibration.
        ("sleb", "linearpatch+ft", "selections.sleb"),
    ],
)
def test_a_calibration_that_excludes_tokens_is_refused_where_a_method_counts_all(
    selection: str, recovery: str, counting: str
) -> None:
    with pytest.raises(LpstepsError) as caught:
        check_text_of_methods(showing(selection, recovery, exclude_first=4))
    text = str(caught.value)
    assert text.startswith(f"{EXCLUDED}{counting} counts every token") and "set it to 0" in text


@pytest.mark.parametrize(
    ("selection", "recovery"),
    [
        ("shortgpt", "linearpatch"),
        ("magnitude", "procrustes-replaceme"),
        ("last", "least-squares-ridge"),
        ("shortgpt", "least-squares-sequential"),
        ("llm-streamline", "linearpatch+ft"),
        ("no such selection", "no such recovery"),
    ],
)
def test_methods_that_leave_tokens_out_take_such_a_calibration(
    selection: str, recovery: str
) -> None:
    check_text_of_methods(showing(selection, recovery, exclude_first=4))


def test_a_window_is_not_excluded_as_a_whole() -> None:
    check_text_of_methods(showing("shortgpt", "linearpatch", exclude_first=511))
    with pytest.raises(LpstepsError, match="exclude_first: 512: must lie in 0 to 511"):
        check_text_of_methods(showing("shortgpt", "linearpatch", exclude_first=512))


@pytest.mark.parametrize(
    ("selection", "recovery", "says"),
    [
        ("taylor", "none", "selections.taylor: windows: 10 x 128 tokens: calibration"),
        ("repair-aware", "none", "selections.repair-aware: windows: "),
        ("shortgpt", "least-squares", "recoveries.least-squares: windows: 2 x 512 tokens"),
    ],
)
def test_a_method_that_asks_for_more_text_than_there_is_is_refused(
    selection: str, recovery: str, says: str
) -> None:
    with pytest.raises(LpstepsError) as caught:
        check_text_of_methods(showing(selection, recovery, windows=1))
    text = str(caught.value)
    assert text.startswith(f"config/methods.yaml: {says}"), text
    assert "calibration 'wikipedia' has 1 x 512; ask for less or calibrate on more" in text


def test_windows_of_the_model_itself_count_as_text() -> None:
    check_text_of_methods(showing("shortgpt", "least-squares", windows=1, generated=1))


def test_a_row_without_a_cut_to_build_needs_no_text_for_its_repair() -> None:
    config = showing("shortgpt", "least-squares", windows=1)
    table = config.tables["table01"]
    layers = table.columns[0].model_copy(update={"kind": "layers"})
    shown = {"table01": table.model_copy(update={"columns": (layers,)})}
    check_text_of_methods(config.model_copy(update={"tables": shown}))


def test_a_figure_chooses_layers_on_the_same_text() -> None:
    config = read_config(Path("config/full.yaml"))
    figure = next(iter(config.figures.values())).model_copy(update={"selection": "sleb"})
    text = config.definitions.calibrations["wikipedia"].model_copy(update={"exclude_first": 1})
    config.definitions.calibrations["wikipedia"] = text
    with pytest.raises(LpstepsError, match=r"selections\.sleb counts every token"):
        check_text_of_methods(config.model_copy(update={"tables": {}, "figures": {"x": figure}}))


@pytest.mark.parametrize("kind", ["selection", "recovery", "width"])
def test_the_methods_that_count_every_token_say_so(kind: str) -> None:
    for name in methods.method_names(kind):
        module = methods.method_module(kind, name)
        counts = "source.windows" in inspect.getsource(module)
        assert getattr(module, "COUNTS_EVERY_TOKEN", False) == counts, name
