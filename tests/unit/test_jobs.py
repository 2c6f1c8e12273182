"""What the jobs of a config read, and what the tables are told of each repair."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from lpsteps import jobs, methods
from lpsteps.config import Config, load_config
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError
from lpsteps.recovery import lora, streamline_ffn
from lpsteps.report.definitions import TableDefinition
from lpsteps.report.evidence import parse_build_spec
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import choose
from lpsteps.training import training_text

ROOT = Path(__file__).parents[2]
WINDOWS, WINDOW = 32, 520
MODEL = "smollm2-135m"


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config_with(folder: Path, recoveries: dict[str, Any], **calibration: int) -> Config:
    """Return the profile of all repairs with some more, on a calibration text of its own."""
    profile = yaml.safe_load(Path("config/beyond.yaml").read_text())
    text = {"corpus": "wikipedia", "windows": WINDOWS, **calibration}
    definitions = {"calibrations": {"own": text}, "recoveries": recoveries}
    path = folder / "definitions.yaml"
    path.write_text(yaml.safe_dump(definitions))
    profile["definitions"].append(str(path))
    profile |= {"calibration": "own", "window_length": WINDOW}
    if "exclude_first" in calibration:
        # Tables of all repairs show some that count every token.
        profile |= {"tables": {}, "figures": {"cosines": {MODEL: []}}}
    return load_config(profile, ["config/beyond.yaml"])


@pytest.mark.parametrize("method", ["streamline_layer", "streamline_ffn", "lora"])
@pytest.mark.parametrize(
    "text",
    [{}, {"length": 120}, {"windows": 7, "length": 500}, {"windows": 3, "length": 250}],
)
def test_tokens_of_a_training_are_those_of_its_text(
    tmp_path: Path, method: str, text: dict[str, int]
) -> None:
    entry = {"title": "Own", "method": method, "params": {"epochs": 3, **text}}
    config = config_with(tmp_path, {"own": entry})
    facts = jobs.recovery_facts(config, "own", "own")
    params = methods.recovery_method(method).Params(**entry["params"])
    used = training_text(np.zeros((WINDOWS, WINDOW), dtype=np.int64), params)
    assert facts["training"] == {"epochs": 3, "tokens": used.fit.size}
    assert facts["calibration_tokens"] == used.fit.size + used.heldout.size


@pytest.mark.parametrize(
    ("recovery", "tokens"),
    [
        ("none", 0),
        ("linearpatch", WINDOWS * (WINDOW - 4)),
        ("least-squares", WINDOWS * (WINDOW - 4)),
        ("replaceme", WINDOWS * (WINDOW - 4)),
    ],
)
def test_tokens_that_a_calibration_excludes_do_not_count(
    tmp_path: Path, recovery: str, tokens: int
) -> None:
    facts = jobs.recovery_facts(config_with(tmp_path, {}, exclude_first=4), "own", recovery)
    assert (facts["calibration_tokens"], facts["training"]) == (tokens, None)


EXTENDED = "results/m/calibration/own/windows.parquet"


@pytest.mark.parametrize(
    ("generated", "total", "file"),
    [(0, WINDOWS, "results/m/windows/wikipedia/calibration.parquet"), (7, WINDOWS + 7, EXTENDED)],
)
def test_every_reader_gets_the_text_of_both_kinds(
    tmp_path: Path, generated: int, total: int, file: str
) -> None:
    """One file and one number of windows for all that read it; tokens count in both kinds."""
    config = config_with(tmp_path, {}, generated=generated)
    assert jobs.calibration_windows(config, "m", "own") == file
    assert jobs.corpus_windows(config, "m", "own").endswith("/wikipedia/calibration.parquet")
    assert ("own" in jobs.extended_calibrations(config)) == (generated > 0)
    specs = [
        jobs.calibrate_spec(config, "own"),
        jobs.measure_moments_spec(config, "own", "stream"),
        jobs.build_patch_spec(config, MODEL, "own", "branch-refit"),
        jobs.rank_layers_spec(config, "smollm2-135m", "own", "sleb"),
    ]
    assert [spec["windows"] for spec in specs] == [total] * 4
    facts = jobs.recovery_facts(config, "own", "least-squares")
    assert facts["calibration_tokens"] == total * WINDOW
    assert jobs.extend_windows_spec(config, MODEL, "own") == {
        "windows": WINDOWS,
        "generated": generated,
        "seed": 0,
    }


def test_a_training_on_extended_text_reads_both_kinds(tmp_path: Path) -> None:
    entry = {"title": "Own", "method": "streamline_ffn", "params": {"epochs": 1}}
    config = config_with(tmp_path, {"own": entry}, generated=15)
    facts = jobs.recovery_facts(config, "own", "own")
    params = methods.recovery_method("streamline_ffn").Params(epochs=1)
    used = training_text(np.zeros((WINDOWS + 15, WINDOW), dtype=np.int64), params)
    assert facts["training"] == {"epochs": 1, "tokens": used.fit.size}


def with_rows(config: Config, table: str, *rows: dict[str, Any]) -> Config:
    """Return the config with more rows in one of its tables."""
    content = config.tables[table].model_dump(by_alias=True)
    content["rows"] = [*content["rows"], *rows]
    tables = config.tables | {table: TableDefinition.model_validate(content)}
    return config.model_copy(update={"tables": tables})


def test_a_row_is_built_on_the_calibration_that_it_names(tmp_path: Path) -> None:
    """In a folder of its own, with the numbers of layers of its table, and facts of its text."""
    config = config_with(tmp_path, {}, generated=7)
    config.profile.tables["bases"]["smollm2-135m"] = (4, 2)
    row = {"label": "A", "selection": "sleb", "recovery": "least-squares"}
    more = with_rows(
        config,
        "bases",
        {"id": "a", "calibration": "novels", **row},
        {"id": "b", "calibration": "novels", **row},
        {"id": "c", "calibration": "nowhere", **row},
        {"id": "d", "calibration": "stories", **row, "recovery": "nothing"},
    )
    added = jobs.variants(more).keys() - jobs.variants(config).keys()
    assert {(v.calibration, v.selection, v.recovery, v.n) for v in added} == {
        ("novels", "sleb", "least-squares", n) for n in (2, 4)
    }
    plans = set(jobs.plan_folders(more)) - set(jobs.plan_folders(config))
    assert {(p.calibration, p.n) for p in plans} == {
        (calibration, n) for calibration in ("novels", "stories") for n in (2, 4)
    }
    assert jobs.selection_counts(more, "smollm2-135m", "novels", "sleb") == [2, 4]
    assert jobs.rank_layers_spec(more, "smollm2-135m", "novels", "sleb")["counts"] == [4]
    # A sequence covers what is in front of its end; what nothing shows has no ranking.
    assert jobs.choose_layers_spec(more, "smollm2-135m", "novels", "sleb", 3)["n"] == 3
    for calibration, n in (("novels", 5), ("wikipedia-64", 4)):
        with pytest.raises(LpstepsError, match=f"^sleb: n{n}: no table .* on {calibration}, "):
            jobs.choose_layers_spec(more, "smollm2-135m", calibration, "sleb", n)
    spec = parse_build_spec(jobs.build_tables_spec(more))
    assert {spec.variants[v.folder].calibration for v in added} == {"novels"}
    assert {spec.plans[p.plan_folder].calibration for p in plans} == {"novels", "stories"}
    assert spec.calibration == "own"
    own, other = (spec.recovery("least-squares", name) for name in (None, "novels"))
    assert own is not None and own.calibration_tokens == (WINDOWS + 7) * WINDOW
    assert other is not None and other.calibration_tokens == 32 * WINDOW
    assert spec.recovery("least-squares", "nowhere") is None
    assert spec.own_calibrations["stories"] == {}


def test_levels_that_a_repair_is_unsuited_for_are_left_out_with_the_reason() -> None:
    config = load_config(
        yaml.safe_load(Path("config/beyond.yaml").read_text()), ["config/beyond.yaml"]
    )
    levels: dict[str, set[int]] = {}
    for variant in jobs.variants(config):
        levels.setdefault(variant.recovery, set()).add(variant.n)
    assert levels["streamline-layer"] == set(range(2, 10))
    assert levels["streamline-ffn"] == levels["linearpatch"] == set(range(1, 10))
    spec = parse_build_spec(jobs.build_tables_spec(config))
    reason = "one trained layer cannot stand in for a single layer"
    assert spec.recoveries["streamline-layer"].unsuited == {MODEL: {1: reason}}
    assert spec.recoveries["streamline-ffn"].unsuited == {MODEL: {}}


def default_with(tables: dict[str, Any], **figures: Any) -> Config:
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    profile |= {"tables": tables, "figures": figures}
    return load_config(profile, ["config/config.yaml"])


def test_levels_that_a_selection_cannot_reach_are_left_out_with_the_reason() -> None:
    config = default_with({"table08": {MODEL: [24, 25]}}, figure4={MODEL: [28]})
    plans = {(plan.selection, plan.n) for plan in jobs.plan_folders(config)}
    assert ("taylor+", 24) in plans and ("taylor+", 25) not in plans
    assert {("shortgpt", 25), ("llm-streamline", 28)} <= plans
    assert not any("taylor+/n25" in path for path in jobs.table_inputs(config)["plans"])
    assert jobs.selection_counts(config, MODEL, config.profile.calibration, "taylor+") == [24]
    spec = parse_build_spec(jobs.build_tables_spec(config))
    reason = "of 30 layers 24 may go, which is too few to remove 25"
    assert spec.selection_unsuited("taylor+", MODEL, 25) == reason
    assert spec.selection_unsuited("taylor+", MODEL, 24) is None
    assert spec.selection_unsuited("shortgpt", MODEL, 25) is None


@pytest.mark.parametrize("table", ["table01", "table02"])
def test_no_variant_rests_on_a_level_that_its_selection_cannot_reach(table: str) -> None:
    config = default_with({table: {MODEL: [3, 29]}})
    shown = {(variant.selection, variant.n) for variant in jobs.variants(config)}
    assert ("sleb", 3) in shown and ("sleb", 29) not in shown
    assert ("shortgpt", 29) in shown


@pytest.mark.parametrize(
    ("metric", "params", "most"),
    [
        ("taylor", {"windows": 1, "length": 8, "exempt_first": 2, "exempt_last": 1}, 3),
        ("block_influence", {}, 6),
        ("token_axis_cosine", {}, 4),
        ("sleb", {"early_barrier": 2, "latter_barrier": 1}, 3),
        ("random_layers", {}, 4),
        ("random_window", {}, 4),
        ("uniform", {}, 4),
        ("last_layers", {"keep_final": True}, 6),
        ("listed_layers", {"layers": [3, 1]}, 2),
    ],
)
def test_a_metric_says_how_many_layers_may_go(
    metric: str, params: dict[str, Any], most: int
) -> None:
    module = methods.selection_method(metric)
    reasons = [methods.selection_unsuited(module, params, n, 6) for n in range(1, 7)]
    assert [reason is None for reason in reasons] == [n <= most for n in range(1, 7)]
    if not module.NEEDS:
        context = SelectionContext(6, tuple(range(1, 6)))
        ranking = module.rank(context, module.Params(**params))
        for n, reason in zip(context.counts, reasons, strict=False):
            if reason is None:
                assert len(choose(ranking, n)) == n
            else:
                with pytest.raises(LpstepsError, match="layers to offer"):
                    choose(ranking, n)


def test_a_method_without_an_opinion_takes_every_cut() -> None:
    method, params = ModuleType("method"), streamline_ffn.Params()
    assert methods.unsuited(method, params, 1, "llama") is None
    method.unsuited = lambda params, n, family: f"{n} of {family}" if n % 2 else None  # type: ignore[attr-defined]
    assert [methods.unsuited(method, params, n, "llama") for n in (1, 2)] == ["1 of llama", None]


def test_a_stated_width_needs_no_family_whose_mlps_are_known() -> None:
    own, stated = streamline_ffn.Params(), streamline_ffn.Params(intermediate=16)
    reason = "needs a family whose output projections are known, and mixtral is none"
    assert methods.unsuited(streamline_ffn, own, 2, "mixtral") == reason
    assert methods.unsuited(streamline_ffn, stated, 2, "mixtral") is None


def test_lora_is_not_asked_of_families_of_few_linear_modules() -> None:
    params = lora.Params()
    reason = "adapts linear modules, of which the layers of mixtral have few"
    assert methods.unsuited(lora, params, 2, "mixtral") == reason
    assert [methods.unsuited(lora, params, 2, family) for family in ("llama", None)] == [None, None]


MOVING = {"branch-refit", "replaceme", "procrustes-replaceme", "replaceme-cosine"}


@pytest.mark.parametrize(
    ("family", "unsuited"),
    [
        (None, set()),
        ("llama", set()),
        ("gemma2", MOVING),
        ("gemma3_text", MOVING),
        ("olmo2", MOVING),
        ("smollm3", MOVING | {"streamline-ffn"}),
    ],
)
def test_repairs_that_a_family_cannot_take_are_left_out_with_the_reason(
    tmp_path: Path, family: str | None, unsuited: set[str]
) -> None:
    models = yaml.safe_load(Path("config/models.yaml").read_text())
    models["models"][MODEL]["model_type"] = family
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    profile = yaml.safe_load(Path("config/beyond.yaml").read_text())
    profile["definitions"][0] = str(tmp_path / "models.yaml")
    profile["tables"] = {"beyond": {MODEL: [5]}}
    config = load_config(profile, ["config/beyond.yaml"])
    shown = {variant.recovery for variant in jobs.variants(config)}
    spec = parse_build_spec(jobs.build_tables_spec(config))
    for recovery in (*MOVING, "streamline-ffn", "streamline-layer", "linearpatch"):
        reasons = spec.recoveries[recovery].unsuited[MODEL]
        assert (recovery in shown, set(reasons)) == (
            (False, {5}) if recovery in unsuited else (True, set())
        )
        assert all(str(family) in reason for reason in reasons.values())


FIT = [
    {"corpus": "stories", "split": "calibration", "windows": 30},
    {"corpus": "novels", "split": "calibration", "windows": 50},
]
HELDOUT = [{"corpus": "novels", "split": "validation", "windows": 8}]


def config_that_trains(
    folder: Path, settings: dict[str, Any], fit: list[dict[str, Any]] = FIT
) -> Config:
    """Return the default profile with a training of its own, shown in table 6."""
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    definitions = yaml.safe_load(Path("config/methods.yaml").read_text())
    definitions["distillations"]["kl"] = settings
    definitions["training_texts"] = {"own": {"fit": fit, "heldout": HELDOUT}}
    path = folder / "methods.yaml"
    path.write_text(yaml.safe_dump(definitions))
    profile["definitions"] = ["config/models.yaml", "config/data.yaml", str(path)]
    profile |= {"training_text": "own", "window_length": WINDOW}
    return load_config(profile, ["config/config.yaml"])


def test_a_training_reads_its_text_in_order_and_every_setting(tmp_path: Path) -> None:
    config = config_that_trains(tmp_path, {"top_k": 7})
    text = jobs.training_text(config)
    windows = "results/smollm2-135m/windows"
    fit = jobs.training_files("smollm2-135m", text.fit)
    assert list(fit.items()) == [
        ("stories", f"{windows}/stories/calibration.parquet"),
        ("novels", f"{windows}/novels/calibration.parquet"),
    ]
    assert jobs.training_files("smollm2-135m", text.heldout) == {
        "novels": f"{windows}/novels/validation.parquet"
    }
    spec = jobs.distill_spec(config, "linearpatch+ft")
    settings = DistillationSettings(top_k=7)
    assert DistillationSettings.model_validate(spec.pop("settings")) == settings
    assert spec == {
        "recovery": "linearpatch+ft",
        "start": "linearpatch",
        "distillation": "kl",
        "fit": [30, 50],
        "heldout": [8],
        "seed": 0,
    }


def test_only_an_offline_training_reads_stored_targets(tmp_path: Path) -> None:
    plan = jobs.Variant("m", "c", "s", 5)
    folder = f"{plan.plan_folder}/teacher/linearpatch"
    for settings, store in (
        ({"epochs": 1}, None),
        ({"epochs": 2}, "k100-wall-hidden"),
        ({"epochs": 2, "top_k": 9, "windows": 7, "store_hidden": False}, "k9-w7-tokens"),
    ):
        config = config_that_trains(tmp_path, settings)
        found = jobs.teacher_manifest(config, plan, "linearpatch+ft")
        assert found == (store and f"{folder}/{store}/manifest.json")
        assert list(jobs.teacher_stores(config)) == ([] if store is None else [store])


def test_targets_depend_on_what_is_stored_alone(tmp_path: Path) -> None:
    """The length of the training or its learning rate must not make a new store."""
    config = config_that_trains(tmp_path, {"epochs": 2})
    plan = jobs.Variant("m", "c", "s", 5)
    config.definitions.distillations["kl-symmetric"] = {
        "epochs": 5,
        "learning_rate": 0.1,
        "parametrisation": "symmetric",
    }
    config.definitions.distillations["kl-top-50"] = {"epochs": 2, "top_k": 9}
    stores = [
        jobs.teacher_manifest(config, plan, recovery)
        for recovery in (
            "linearpatch+ft",
            "linearpatch+ft-kl-symmetric",
            "linearpatch+ft-top-50",
            "least-squares+ft",
        )
    ]
    assert stores[0] == stores[1] and len(set(stores)) == 3
    assert sorted(jobs.teacher_stores(config)) == ["k100-wall-hidden", "k9-wall-hidden"]
    assert jobs.store_teacher_spec(config, "k9-wall-hidden") == {
        "settings": {"top_k": 9, "windows": None, "store_hidden": True},
        "fit": [30, 50],
        "seed": 0,
    }


@pytest.mark.parametrize(("settings", "windows"), [({}, 80), ({"windows": 64}, 64)])
def test_tokens_of_a_distillation_are_those_of_its_windows(
    tmp_path: Path, settings: dict[str, int], windows: int
) -> None:
    config = config_that_trains(tmp_path, {"epochs": 2, "mode": "fused", **settings})
    facts = jobs.recovery_facts(config, "wikipedia", "linearpatch+ft")
    assert facts["calibration_tokens"] == windows * WINDOW
    assert facts["training"] == {"epochs": 2, "tokens": windows * WINDOW}
    assert facts["distillation"] == {
        "objective": "logits_kl",
        "top_k": 100,
        "tail": False,
        "parametrisation": "full",
        "epochs": 2,
        "windows": windows,
        "length": WINDOW,
        "mode": "fused",
        "start": "linearpatch",
    }
    spec = parse_build_spec(jobs.build_tables_spec(config))
    assert spec.recoveries["linearpatch"].distillation is None
    distillation = spec.recoveries["linearpatch+ft"].distillation
    assert distillation is not None and distillation.windows == windows


def test_windows_that_are_counted_later_are_not_guessed(tmp_path: Path) -> None:
    fit = [FIT[0], {**FIT[1], "windows": None}]
    facts = jobs.recovery_facts(
        config_that_trains(tmp_path, {}, fit), "wikipedia", "linearpatch+ft"
    )
    assert facts["distillation"]["windows"] is None
    assert (facts["calibration_tokens"], facts["training"]["tokens"]) == (None, None)
    limited = jobs.recovery_facts(
        config_that_trains(tmp_path, {"windows": 12}, fit), "wikipedia", "linearpatch+ft"
    )
    assert limited["distillation"]["windows"] == 12


@pytest.mark.parametrize("start", ["streamline-ffn-start", "streamline-layer-start"])
def test_an_untrained_start_reads_no_text(start: str) -> None:
    config = load_config(yaml.safe_load(Path("config/full.yaml").read_text()), ["config/full.yaml"])
    facts = jobs.recovery_facts(config, "wikipedia", start)
    assert (facts["calibration_tokens"], facts["training"]) == (0, None)


def test_a_distilled_repair_is_unsuited_where_its_start_is(tmp_path: Path) -> None:
    config = config_that_trains(tmp_path, {})
    recoveries = config.definitions.recoveries
    start = recoveries["linearpatch+ft"].model_copy(update={"start": "streamline-layer"})
    recoveries["linearpatch+ft"] = start
    config.profile.tables["table06"]["smollm2-135m"] = (1, 5)
    levels = {v.n for v in jobs.variants(config) if v.recovery == "linearpatch+ft"}
    assert levels == {5}
    facts = jobs.recovery_facts(config, "wikipedia", "linearpatch+ft")
    assert list(facts["unsuited"][MODEL]) == ["1"]


def test_rows_that_may_lack_text_are_left_out_with_the_reason() -> None:
    config = load_config(yaml.safe_load(Path("config/full.yaml").read_text()), ["config/full.yaml"])
    assert "linearpatch+ft-samples-64" in {v.recovery for v in jobs.variants(config)}
    assert "linearpatch+ft-samples-2500" not in {v.recovery for v in jobs.variants(config)}
    facts = jobs.recovery_facts(config, "wikipedia", "linearpatch+ft-samples-2500")
    reason = "asks for 2500 windows of training text, of which there are 128"
    assert facts["unsuited"][MODEL]["5"] == reason
    # Of all that there is, a text may give a part to distillations that state no number.
    text = jobs.training_text(config).model_copy(update={"windows": 100})
    config.definitions.training_texts["embedded-128"] = text
    facts = jobs.recovery_facts(config, "wikipedia", "linearpatch+ft")
    assert facts["distillation"]["windows"] == 100
    assert facts["calibration_tokens"] == 100 * 512
    assert jobs.measure_overheads_spec(config)["tokens"] == 100 * 512
    assert jobs.distill_spec(config, "linearpatch+ft")["settings"]["windows"] == 100


def test_tables_read_the_curve_of_each_training(tmp_path: Path) -> None:
    config = config_that_trains(tmp_path, {})
    inputs = jobs.table_inputs(config)
    trained = [
        path.removesuffix("patch.manifest.json") + "training.parquet"
        for path in inputs["patches"]
        if "/linearpatch+ft/" in path
    ]
    assert inputs["training"] == trained and len(trained) == 1


def test_each_patch_has_one_rule() -> None:
    config = load_config(yaml.safe_load(Path("config/full.yaml").read_text()), ["config/full.yaml"])
    built, trained = jobs.method_recoveries(config), jobs.distilled_recoveries(config)
    assert sorted([*built, *trained]) == sorted(config.definitions.recoveries)
    assert "linearpatch" in built and "linearpatch+ft" in trained


def test_a_profile_without_training_text_plans_no_training() -> None:
    config = load_config(
        yaml.safe_load(Path("config/beyond.yaml").read_text()), ["config/beyond.yaml"]
    )
    assert jobs.table_inputs(config)["training"] == []
    lacking = jobs.recovery_unsuited(config, "smollm2-135m", "linearpatch+ft", 5)
    assert lacking == "is trained, and the profile names no training text"
    assert "linearpatch+ft" not in jobs.build_tables_spec(config)["recoveries"]
    with pytest.raises(
        LpstepsError,
        match=r"training_text: null: .* allowed: embedded, embedded-128, wikipedia-64, wikitext2",
    ):
        jobs.distill_spec(config, "linearpatch+ft")


def test_memory_of_a_training(tmp_path: Path) -> None:
    """The model twice, and activations of one pass: of a micro-batch where there is one."""
    base = 2 * jobs.memory_mb(config_that_trains(tmp_path, {}), "smollm2-135m")
    one = 16 * 4e-6 * WINDOW * 30 * 576
    for settings, sequences in (
        ({}, 1),
        ({"batch": 6}, 6),
        ({"batch": 6, "micro_batch": 2}, 2),
    ):
        config = config_that_trains(tmp_path, settings)
        more = jobs.distill_mb(config, "smollm2-135m", "linearpatch+ft") - base
        assert more == int(sequences * one)
