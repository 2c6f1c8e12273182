"""Names of variants, and what the rule `export_model` reads of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lpsteps import jobs
from lpsteps.config import Config, load_config, read_config
from lpsteps.errors import LpstepsError
from lpsteps.export.planning import (
    checkpoint_manifest,
    dense_score_files,
    export_model_spec,
    modeling_file,
    score_files,
)
from lpsteps.export.settings import ExportSettings
from lpsteps.export.variant_names import exportable_variants, named_variant, short_name

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
LINEARPATCH = jobs.Variant(MODEL, "wikipedia", "llm-streamline", 5, "linearpatch")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(ROOT)
    return read_config(Path("config/config.yaml"))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Config:
    """The full profile, which has width prunings and a second calibration."""
    monkeypatch.chdir(ROOT)
    return read_config(Path("config/full.yaml"))


def test_a_variant_has_a_short_and_a_long_name(config: Config) -> None:
    for name in (
        "llm-streamline/n5/linearpatch",
        "calibration/wikipedia/selection/llm-streamline/n5/linearpatch",
    ):
        assert named_variant(config, MODEL, name) == LINEARPATCH
    assert named_variant(config, MODEL, "dense") == jobs.Variant(MODEL)


@pytest.mark.parametrize("profile", ["config", "wide"])
def test_every_variant_is_found_by_its_name(profile: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(profile)
    variants = exportable_variants(config, MODEL)
    names = [short_name(config, variant) for variant in variants]
    assert len(set(names)) == len(variants)
    for index in range(0, len(names), len(names) // 5):
        assert named_variant(config, MODEL, names[index]) == variants[index]
    shown = {variant for variant in jobs.variants(config) if variant.model == MODEL}
    assert shown <= set(variants)


def test_a_width_pruning_and_another_calibration_have_names(wide: Config) -> None:
    names = [short_name(wide, variant) for variant in exportable_variants(wide, MODEL)]
    widths = [variant for variant in exportable_variants(wide, MODEL) if variant.width]
    assert widths and f"{widths[0].width}/n{widths[0].n}" in names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("llm-streamlin/n5/linearpatch", "llm-streamline/n5/linearpatch"),
        ("llm-streamline/n4/linearpatch", "llm-streamline/n5/linearpatch"),
        ("llm-streamline/5/linearpatch", "llm-streamline/n5/linearpatch"),
        ("desne", "dense"),
        ("../../etc", "names are"),
        ("", "names are"),
    ],
)
def test_a_wrong_name_gives_one_line_with_the_nearest(
    config: Config, name: str, nearest: str
) -> None:
    with pytest.raises(LpstepsError) as raised:
        named_variant(config, MODEL, name)
    message = str(raised.value)
    assert message.startswith(f"--variant: {name}: config/config.yaml shows no such variant")
    assert nearest in message and "\n" not in message and len(message) < 400


def test_a_wrong_model_gives_the_nearest(config: Config) -> None:
    with pytest.raises(LpstepsError, match=r"--model: smollm: did you mean 'smollm2-135m'"):
        named_variant(config, "smollm", "dense")


def test_a_repair_that_does_not_suit_the_cut_is_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LLM-Streamline's layer takes the place of the removed ones: of two at least."""
    monkeypatch.chdir(ROOT)
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    profile["tables"] = {"table08": {MODEL: [1, 2]}}
    config = load_config(profile, ["config/config.yaml"])
    offered = {(each.n, each.recovery) for each in exportable_variants(config, MODEL)}
    assert {(1, "linearpatch"), (2, "linearpatch"), (2, "streamline-layer")} <= offered
    assert (1, "streamline-layer") not in offered


def test_a_training_on_more_windows_than_there_are_is_not_offered(config: Config) -> None:
    lacking = {
        name
        for name in jobs.distilled_recoveries(config)
        if config.lacking_text(jobs.distilled(config, name).distillation) is not None
    }
    offered = {variant.recovery for variant in exportable_variants(config, MODEL)}
    assert lacking and not lacking & offered
    assert set(jobs.distilled_recoveries(config)) - lacking <= offered


def test_the_card_shows_what_the_tables_do_and_starts_no_other_benchmark(config: Config) -> None:
    folder = LINEARPATCH.folder
    shown = jobs.variants(config)[LINEARPATCH]
    assert score_files(config, LINEARPATCH) == {
        name: f"{folder}/scores/{name}.json" for name in shown
    }
    assert dense_score_files(config, LINEARPATCH).keys() == set(shown)
    hidden = jobs.Variant(MODEL, "wikipedia", "llm-streamline", 5, "procrustes")
    assert hidden in exportable_variants(config, MODEL)
    assert score_files(config, hidden) == dense_score_files(config, hidden) == {}
    assert dense_score_files(config, jobs.Variant(MODEL)) == {}


def test_the_target_lies_beside_the_variant(config: Config) -> None:
    assert checkpoint_manifest(LINEARPATCH) == f"{LINEARPATCH.folder}/checkpoint/manifest.json"


def test_the_class_that_may_be_needed_exists(wide: Config) -> None:
    files = {modeling_file(variant) for variant in exportable_variants(wide, MODEL)}
    assert files == {
        None,
        "lpsteps/export/modeling_layer_pruned.py",
        "lpsteps/export/modeling_width_pruned.py",
    }
    assert all((ROOT / path).is_file() for path in files if path)


def test_the_spec_of_variant_fits_the_step(wide: Config) -> None:
    variants = exportable_variants(wide, MODEL)
    widths = [variant for variant in variants if variant.width]
    for variant in [widths[0], *variants[:: len(variants) // 5]]:
        settings = ExportSettings(**export_model_spec(wide, variant))
        assert (settings.width is not None) == bool(variant.width)
        assert (settings.recovery is not None) == bool(variant.recovery)
        assert settings.benchmarks.keys() == score_files(wide, variant).keys()


def test_the_spec_says_method_source_and_licence(config: Config) -> None:
    spec = export_model_spec(config, LINEARPATCH)
    assert spec["selection"]["method"] == "contiguous_cosine"
    assert spec["recovery"]["paper"] == "https://arxiv.org/abs/2505.24680"
    # That of the archive, which names it.
    assert spec["base"]["licence"] == "Apache-2.0"
    llama = export_model_spec(config, jobs.Variant("llama-2-7b"))
    assert (llama["base"]["licence"], llama["base"]["repo"]) == ("", "meta-llama/Llama-2-7b-hf")


def test_the_spec_of_a_distilled_patch_says_how_it_was_trained(config: Config) -> None:
    name = jobs.distilled_recoveries(config)[0]
    variant = jobs.Variant(MODEL, "wikipedia", "llm-streamline", 5, name)
    recovery = export_model_spec(config, variant)["recovery"]
    entry = jobs.distilled(config, name)
    assert recovery["start"] == entry.start
    assert recovery["training"]["epochs"] == config.distillation(entry.distillation).epochs
