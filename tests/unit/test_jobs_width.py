"""Width prunings in the config: which variants and jobs follow, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lpsteps import jobs
from lpsteps.config import Config, load_config
from lpsteps.errors import LpstepsError
from lpsteps.report.evidence import parse_build_spec

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def default(counts: list[int], *definitions: str) -> Config:
    """Return the default profile with table 1 alone, and with the width prunings."""
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    profile |= {"tables": {"table01": {MODEL: counts}}}
    profile["definitions"] += ["config/width.yaml", *definitions]
    return load_config(profile, ["config/config.yaml"])


def widths(config: Config) -> list[jobs.Variant]:
    return [variant for variant in jobs.variants(config) if variant.width]


def test_a_row_that_names_a_width_pruning_is_a_variant_of_its_own() -> None:
    config = default([5, 3])
    found = widths(config)
    assert [(each.n, each.selection, each.recovery) for each in found] == [(3, "", ""), (5, "", "")]
    folder = f"results/{MODEL}/calibration/{config.profile.calibration}/width/llm-pruner/n5"
    assert found[1].folder == folder
    lineage = folder.removeprefix(f"results/{MODEL}/")
    assert jobs.Variant.from_lineage(MODEL, lineage) == found[1]
    inputs = jobs.table_inputs(config)
    assert f"{folder}/width.manifest.json" in inputs["widths"] and len(inputs["widths"]) == 2
    assert not any("/width/" in path for kind in ("plans", "patches") for path in inputs[kind])
    assert f"{folder}/scores/piqa.json" in inputs["scores"]
    spec = parse_build_spec(jobs.build_tables_spec(config))
    facts = spec.variants[folder]
    assert (facts.selection, facts.recovery, facts.n) == ("llm-pruner", "none", 5)
    assert spec.widths["llm-pruner"].unsuited == {MODEL: {}}


def test_other_variants_parse_as_they_did() -> None:
    found = jobs.variants(default([5]))
    assert {jobs.Variant(MODEL), *widths(default([5]))} < set(found)
    for variant in found:
        lineage = variant.folder.removeprefix(f"results/{MODEL}/")
        assert jobs.Variant.from_lineage(MODEL, lineage) == variant


def test_levels_out_of_reach_are_left_out_with_the_reason() -> None:
    config = default([5, 24])
    assert [variant.n for variant in widths(config)] == [5]
    spec = parse_build_spec(jobs.build_tables_spec(config))
    reason = "of 30 layers 24 may be pruned, which leaves no room for 24"
    assert spec.widths["llm-pruner"].unsuited == {MODEL: {24: reason}}


def test_the_step_reads_the_windows_of_the_calibration() -> None:
    config = default([5])
    calibration = config.definitions.calibrations[config.profile.calibration]
    assert jobs.prune_width_spec(config, config.profile.calibration, "llm-pruner", 5) == {
        "width": "llm-pruner",
        "method": "llm_pruner",
        "params": {"windows": 10, "length": 128, "exempt_first": 4, "exempt_last": 2},
        "n": 5,
        "windows": calibration.windows,
        "exclude_first": 0,
        "modules": ["lpsteps.width.llm_pruner"],
    }
    more = jobs.prune_width_mb(config, MODEL) - jobs.memory_mb(config, MODEL)
    assert more == config.definitions.models[MODEL].parameters * 4 // 10**6


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        (
            {"width_prunings": {"mine": {"title": "M", "method": "llm_prunner"}}},
            "width_prunings.mine: width method 'llm_prunner' does not exist: did you mean",
        ),
        (
            {"width_prunings": {"mine": {"title": "M", "method": "llm_pruner"}}},
            "width_prunings.mine.params: windows: required, but not given",
        ),
        (
            {"selections": {"llm-pruner": {"title": "M", "metric": "last_layers"}}},
            "width_prunings.llm-pruner: a selection has this name, too",
        ),
        (
            {
                "width_prunings": {
                    "shortgpt-narrow": {
                        "title": "M",
                        "method": "llm_pruner",
                        "params": {"windows": 1, "length": 1},
                    }
                }
            },
            "width_prunings.shortgpt-narrow.params: length: 1: ",
        ),
    ],
)
def test_mistakes_in_the_config_are_one_line(
    tmp_path: Path, definitions: dict[str, Any], message: str
) -> None:
    path = tmp_path / "definitions.yaml"
    path.write_text(yaml.safe_dump(definitions))
    with pytest.raises(LpstepsError) as raised:
        default([5], str(path))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_width_pruning_leaves_no_cut_to_repair(tmp_path: Path) -> None:
    """Rows of table 1 repair what ShortGPT removes."""
    methods = yaml.safe_load(Path("config/methods.yaml").read_text())
    del methods["selections"]["shortgpt"]
    prunings = yaml.safe_load(Path("config/width.yaml").read_text())["width_prunings"]
    methods["width_prunings"] = {"shortgpt": prunings["llm-pruner"]}
    path = tmp_path / "methods.yaml"
    path.write_text(yaml.safe_dump(methods))
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    profile |= {"tables": {"table01": {MODEL: [5]}}}
    profile["definitions"] = ["config/models.yaml", "config/data.yaml", str(path)]
    message = r"reports/tables/table01.yaml: recovery: linearpatch: 'shortgpt' prunes the width"
    with pytest.raises(LpstepsError, match=message):
        load_config(profile, ["config/config.yaml"])


def test_a_model_that_runs_code_of_its_own_is_not_pruned_in_width(tmp_path: Path) -> None:
    """Its heads and channels are not known before the run; its other rows are not lost for that."""
    models = yaml.safe_load(Path("config/models.yaml").read_text())["models"]
    own = tmp_path / "own.yaml"
    # Of a family that transformers has, it would not run it.
    trusting = models[MODEL] | {"trust_remote_code": True}
    entries = {"own": trusting | {"model_type": "own"}, "native": trusting}
    own.write_text(yaml.safe_dump({"models": entries}))
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    profile |= {"tables": {"table01": {MODEL: [5], "own": [5], "native": [5]}}}
    profile["definitions"] += ["config/width.yaml", str(own)]
    config = load_config(profile, ["config/config.yaml"])
    assert [each.model for each in widths(config)] == ["native", MODEL]
    assert any(variant.model == "own" for variant in jobs.variants(config))
    facts = parse_build_spec(jobs.build_tables_spec(config)).widths["llm-pruner"].unsuited
    assert "code of its own" in facts["own"][5] and not facts[MODEL]
