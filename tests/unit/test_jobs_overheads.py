"""Which costs a profile has measured, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lpsteps import jobs
from lpsteps.config import Config, load_config
from lpsteps.errors import LpstepsError
from lpsteps.steps.measure_overheads import Settings

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config_with(tables: dict[str, Any], **changes: Any) -> Config:
    """Return the default profile with other tables and settings."""
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    return load_config({**profile, "tables": tables, **changes}, ["config/config.yaml"])


def test_the_default_measures_no_time() -> None:
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    config = load_config(profile, ["config/config.yaml"])
    assert jobs.table_inputs(config)["overheads"] == []


@pytest.mark.parametrize("tables", [["overheads"], ["storage"], ["overheads", "storage"]])
def test_one_file_for_all_tables_of_costs_and_nothing_else(tables: list[str]) -> None:
    config = config_with({table: {MODEL: []} for table in tables})
    inputs = jobs.table_inputs(config)
    assert inputs["overheads"] == [f"results/{MODEL}/overheads.json"]
    assert all(not files for kind, files in inputs.items() if kind != "overheads")
    assert jobs.variants(config) == {}
    assert jobs.published_files(config) == [f"reports/published/{table}.csv" for table in tables]
    assert jobs.models(config) == [MODEL]


def test_the_settings_are_those_of_the_profile() -> None:
    tables = {"overheads": {MODEL: []}}
    spec = jobs.measure_overheads_spec(config_with(tables))
    expected = {
        "batch": 1,
        "length": None,
        "window_length": 512,
        "repetitions": 100,
        "seconds": 30.0,
        "top_k": 100,
        "tokens": 64 * 512,
        "seed": 0,
    }
    assert spec == expected
    assert Settings.model_validate(spec).tokens == 32_768
    paper = {"batch": 16, "length": 2048, "repetitions": 1000, "seconds": 300.0}
    changed = config_with(tables, overheads=paper, seed=3)
    assert jobs.measure_overheads_spec(changed) == expected | paper | {"seed": 3}
    assert (
        jobs.overheads_mb(changed, MODEL) - jobs.memory_mb(changed, MODEL)
        == 16 * 2048 * 576 * 64 // 10**6
    )
    without = config_with(tables, training_text=None)
    assert jobs.measure_overheads_spec(without)["tokens"] is None


def test_a_text_of_unknown_size(tmp_path: Path) -> None:
    path = tmp_path / "text.yaml"
    text = {
        "fit": [
            {"corpus": "wikipedia", "split": "calibration", "windows": 8},
            {"corpus": "stories", "split": "calibration"},
        ],
        "heldout": [{"corpus": "novels", "split": "validation", "windows": 4}],
    }
    path.write_text(yaml.safe_dump({"training_texts": {"own": text}}))
    definitions = [f"config/{name}.yaml" for name in ("models", "data", "methods")]
    config = config_with(
        {"overheads": {MODEL: []}}, definitions=[*definitions, str(path)], training_text="own"
    )
    assert jobs.measure_overheads_spec(config)["tokens"] is None


def test_a_store_is_measured_where_the_profile_has_one() -> None:
    tables = {"storage": {MODEL: []}, "table06": {MODEL: [5]}}
    config = config_with(tables)
    assert jobs.stored_targets(config, MODEL) is None
    config.definitions.distillations["kl"] = {"epochs": 2}
    plan = jobs.Variant(MODEL, "wikipedia", "llm-streamline", 5)
    assert jobs.stored_targets(config, MODEL) == (
        f"{plan.plan_folder}/teacher/linearpatch/k100-wall-hidden/manifest.json"
    )
    assert jobs.stored_targets(config, "llama-2-7b") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetitions": 1}, "overheads.repetitions: 1: "),
        ({"windows": 4}, "overheads.windows: unknown key"),
    ],
)
def test_mistakes_name_the_key(settings: dict[str, int], message: str) -> None:
    with pytest.raises(LpstepsError, match=message):
        config_with({"overheads": {MODEL: []}}, overheads=settings)
