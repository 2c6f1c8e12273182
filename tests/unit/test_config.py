"""A mistake in the config ends in one line that names where it is and what would be right."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lpsteps import config as configuration
from lpsteps import jobs
from lpsteps.errors import LpstepsError
from lpsteps.jobs.memory import statistics_mb

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def profile() -> dict[str, Any]:
    return yaml.safe_load(Path("config/config.yaml").read_text())


def message(payload: dict[str, Any]) -> str:
    with pytest.raises(LpstepsError) as caught:
        configuration.load_config(payload, ["config/config.yaml"])
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_required_key_under_a_wrong_name_is_told_as_that(profile):
    profile["calibraton"] = profile.pop("calibration")
    assert "calibraton: unknown key, did you mean 'calibration'?" in message(profile)


def test_the_default_profile_is_valid(profile):
    config = configuration.load_config(profile, ["config/config.yaml"])
    found = jobs.variants(config)
    assert jobs.Variant("smollm2-135m") in found
    assert {variant.n for variant in found} == {0, 5}
    assert {plan.n for plan in jobs.plan_folders(config)} == {3, 5}
    for variant in found:
        lineage = variant.folder.removeprefix(f"results/{variant.model}/")
        assert jobs.Variant.from_lineage(variant.model, lineage) == variant


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"calibraton": "wikipedia"},
        "calibraton: unknown key, did you mean 'calibration'?",
    ),
    "unknown table": ({"tables": {"table03x": {}}}, "table 'table03x' is not defined"),
    "unknown model": (
        {"tables": {"table01": {"smollm2-136m": [5]}}},
        "tables.table01.smollm2-136m: model 'smollm2-136m' is not defined; did you mean 'smollm2-135m'?",
    ),
    "too many layers": (
        {"tables": {"table01": {"smollm2-135m": [30]}}},
        "cannot remove 30 layers from a model with 30; allowed: 1 to 29",
    ),
    "windows without a predicted token": ({"window_length": 1}, "must be at least 2"),
    "no layers": ({"tables": {"table01": {"smollm2-135m": [0]}}}, "must be at least 1"),
    "repeated level": ({"tables": {"table01": {"smollm2-135m": [5, 5]}}}, "listed twice"),
    "unknown calibration": ({"calibration": "wiki"}, "calibration 'wiki' is not defined"),
    "negative limit": (
        {"suites": {"qa": {"protocol": "harness", "benchmarks": {"piqa": -1}}}},
        "suites.qa.benchmarks.piqa: -1",
    ),
    "true in place of a number": (
        {"suites": {"qa": {"protocol": "harness", "benchmarks": {"copa": True}}}},
        "suites.qa.benchmarks.copa: True: must be a whole number",
    ),
    "true in a list": (
        {"tables": {"table01": {"smollm2-135m": [5, True]}}},
        "tables.table01.smollm2-135m.1: True: must be a whole number",
    ),
    "true as a time": (
        {"overheads": {"seconds": True}},
        "overheads.seconds: True: must be a number",
    ),
    "unknown benchmark": (
        {"suites": {"qa": {"protocol": "harness", "benchmarks": {"pica": 1}}}},
        "benchmark 'pica' is not defined; did you mean 'piqa'?",
    ),
    "wrong protocol": (
        {"suites": {"qa": {"protocol": "perplexity", "benchmarks": {"piqa": 1}}}},
        "belongs to protocol 'harness'",
    ),
    "benchmark without data": (
        {"suites": {"qa": {"protocol": "harness", "benchmarks": {"wsc273": None}}}},
        "WSC273 is not in the embedded data; set data_root to a folder with local files, or leave "
        "it out of the suite",
    ),
    "benchmark without data that the hub has": (
        {"suites": {"qa": {"protocol": "harness", "benchmarks": {"race": None}}}},
        "RACE-high is not in the embedded data; set data_root to a folder with local files, or "
        "hub_data: true, or leave it out of the suite",
    ),
    "benchmark without data in the folder of local files": (
        {
            "suites": {"qa": {"protocol": "harness", "benchmarks": {"wsc273": None}}},
            "data_root": "config",
        },
        "WSC273 is not in the embedded data; put wsc273_test.parquet into data_root, config, or "
        "leave it out of the suite",
    ),
    "mistyped training text": (
        {"training_text": "embeded"},
        "training_text: training text 'embeded' is not defined; did you mean 'embedded'?",
    ),
    "training text without data": (
        {"training_text": "wikitext2", "window_length": 2048},
        "training_text: wikitext2: wikitext2-training: WikiText-2 (raw), training split is not in",
    ),
    "distilled recovery without text": (
        {"training_text": None},
        "training_text: null: table06 shows recovery 'linearpatch+ft', which is trained; "
        "allowed: embedded, embedded-128, wikipedia-64, wikitext2",
    ),
    "running text with a beginning of its own": (
        {
            "suites": {
                "text": {"protocol": "perplexity", "add_bos": True, "benchmarks": {"novels": 4}}
            }
        },
        "suites.text.add_bos: true: running text begins as `add_bos` of the model's entry says",
    ),
    "missing data_root": ({"data_root": "no/where"}, "data_root: no/where: no such folder"),
    "missing model_root": ({"model_root": "no/where"}, "model_root: no/where: no such folder"),
    "wrong dtype": ({"dtype": "float16"}, "dtype: 'float16'"),
    "missing definitions file": (
        {"definitions": ["config/none.yaml"]},
        "config/none.yaml: cannot be read",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line(profile, mistake):
    changes, expected = MISTAKES[mistake]
    text = message({**profile, **changes})
    assert expected in text


def test_missing_key_is_named(profile):
    del profile["suites"]
    assert "suites: required" in message(profile)


def test_benchmark_in_two_suites_is_refused(profile):
    profile["suites"]["more"] = {"protocol": "harness", "benchmarks": {"piqa": 1}}
    assert "benchmark 'piqa' is in more than one suite" in message(profile)


def edited_definitions(tmp_path: Path, file: str, edit) -> dict[str, Any]:
    """The profile with one definition file replaced by an edited copy."""
    content = yaml.safe_load(Path(file).read_text())
    edit(content)
    changed = tmp_path / Path(file).name
    changed.write_text(yaml.safe_dump(content))
    payload = yaml.safe_load(Path("config/config.yaml").read_text())
    names = [str(changed) if name == file else name for name in payload["definitions"]]
    return {**payload, "definitions": names}


MMLU = dict.fromkeys(("mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other"), 60)


def test_mmlu_works_in_a_suite(profile):
    profile["suites"]["mmlu"] = {"protocol": "harness", "benchmarks": MMLU}
    config = configuration.load_config(profile, ["config/config.yaml"])
    assert set(jobs.fetch_data_spec(config, "mmlu")["splits"]) == {"dev", "test"}
    spec = jobs.evaluate_spec(config, "smollm2-135m", "dense", "mmlu")
    assert spec["limits"] == MMLU
    # Examples are drawn here, and nothing is in the other suites.
    assert spec["seed"] == profile["seed"]
    for suite in ("qa", "perplexity"):
        assert "seed" not in jobs.evaluate_spec(config, "smollm2-135m", "dense", suite)
    assert spec["benchmarks"]["mmlu_other"]["tasks"]["mmlu_anatomy"] == "anatomy"


def test_a_shown_benchmark_brings_its_suite(profile):
    """One job scores a suite, and is known to Snakemake only with all that it has made."""
    profile["suites"]["qa"]["benchmarks"]["mmlu_stem"] = 10
    config = configuration.load_config(profile, ["config/config.yaml"])
    for variant, names in jobs.variants(config).items():
        assert ("mmlu_stem" in names) == ("arc_easy" in names), variant
    files = jobs.table_inputs(config)["scores"]
    assert "results/smollm2-135m/dense/scores/mmlu_stem.json" in files
    # A suite of which no table shows anything is not scored at all.
    profile["suites"]["qa"]["benchmarks"].pop("mmlu_stem")
    profile["suites"]["mmlu"] = {"protocol": "harness", "benchmarks": {"mmlu_stem": 10}}
    config = configuration.load_config(profile, ["config/config.yaml"])
    assert not any("mmlu_stem" in names for names in jobs.variants(config).values())


def test_another_order_is_no_other_setting(tmp_path):
    """Snakemake compares settings as they are written, so the order is one of ours."""
    plain = edited_definitions(tmp_path, "config/methods.yaml", lambda content: None)
    config = configuration.load_config(plain, ["config/config.yaml"])

    def turn_round(content):
        for entry in content["recoveries"].values():
            if "params" in entry:
                entry["params"] = dict(reversed(entry["params"].items()))

    turned = edited_definitions(tmp_path, "config/methods.yaml", turn_round)
    for suite in turned["suites"].values():
        suite["benchmarks"] = dict(reversed(suite["benchmarks"].items()))
    other = configuration.load_config(turned, ["config/config.yaml"])
    for suite in plain["suites"]:
        specs = [jobs.evaluate_spec(c, "smollm2-135m", "dense", suite) for c in (config, other)]
        assert repr(specs[0]) == repr(specs[1])
    patches = [
        repr(jobs.build_patch_spec(c, "smollm2-135m", "wikipedia", "least-squares-ridge"))
        for c in (config, other)
    ]
    assert patches[0] == patches[1]


@pytest.mark.parametrize(("asked", "passed"), [(None, True), (True, True), (False, False)])
def test_questions_begin_as_the_suite_or_else_the_model_says(tmp_path, asked, passed):
    payload = edited_definitions(
        tmp_path, "config/models.yaml", lambda c: c["models"]["smollm2-135m"].update(add_bos=True)
    )
    payload["suites"]["qa"]["add_bos"] = asked
    config = configuration.load_config(payload, ["config/config.yaml"])
    assert jobs.evaluate_spec(config, "smollm2-135m", "dense", "qa")["add_bos"] is passed
    for corpus in ("wikipedia", "stories"):
        assert jobs.tokenize_corpus_spec(config, "smollm2-135m", corpus, "test")["add_bos"] is True


def test_only_the_text_of_a_model_with_bos_in_windows_has_another_spec(tmp_path):
    def specs(**entry) -> list[dict[str, Any]]:
        payload = edited_definitions(
            tmp_path, "config/models.yaml", lambda c: c["models"]["smollm2-135m"].update(entry)
        )
        config = configuration.load_config(payload, ["config/config.yaml"])
        model = "smollm2-135m"
        return [
            jobs.tokenize_corpus_spec(config, model, "wikipedia", "test"),
            jobs.extend_windows_spec(config, model, "wikipedia"),
            jobs.build_patch_spec(config, model, "wikipedia", "lora"),
            jobs.build_patch_spec(config, model, "wikipedia", "linearpatch"),
            jobs.convert_model_spec(config, model),
            jobs.evaluate_spec(config, model, "dense", "perplexity"),
            jobs.evaluate_spec(config, model, "dense", "qa"),
            jobs.build_tables_spec(config),
            jobs.tokenize_corpus_spec(config, "llama-2-7b", "wikipedia", "test"),
        ]

    plain, off, on = specs(), specs(bos_in_windows=False), specs(bos_in_windows=True)
    assert repr(plain) == repr(off)
    assert "bos_in_windows" not in repr(plain)
    assert on == [{**spec, "bos_in_windows": True} for spec in plain[:3]] + plain[3:]


def test_the_papers_questions_have_no_bos_and_its_text_has_one():
    """As lm-eval 0.4.4 scores a LLaMA that is passed to it as a loaded model."""
    config = configuration.load_config(
        yaml.safe_load(Path("config/paper.yaml").read_text()), ["config/paper.yaml"]
    )
    assert jobs.evaluate_spec(config, "llama-2-7b", "dense", "qa")["add_bos"] is False
    assert jobs.evaluate_spec(config, "llama-2-7b", "dense", "mmlu")["add_bos"] is True
    assert jobs.tokenize_corpus_spec(config, "llama-2-7b", "wikitext2", "test")["add_bos"] is True


def test_the_paper_calibrates_on_long_windows_of_its_own_text():
    paper = yaml.safe_load(Path("config/paper.yaml").read_text())
    for changes, expected in (
        ({}, True),
        ({"calibration": "wikitext2-64"}, False),
        ({"window_length": 512}, False),
    ):
        config = configuration.load_config(paper | changes, ["config/paper.yaml"])
        assert jobs.build_tables_spec(config)["printed_calibration"] is expected


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        ("copa", {"archive": None}, r"datasets\.copa\.splits: .*: inside no archive; name it as"),
        ("copa", {"hub": {"format": "jsonl"}}, r"datasets\.copa\.hub\.format: jsonl: is that of"),
        ("c4", {"hub": {"config": "en"}}, r"datasets\.c4\.hub\.config: en: is not read where"),
    ],
)
def test_what_no_step_would_heed_of_a_dataset_is_refused(tmp_path, dataset, changes, message):
    def edit(content):
        entry = content["datasets"][dataset]
        hub = changes.get("hub", {})
        entry.update(changes, hub={**entry["hub"], **hub})

    payload = edited_definitions(tmp_path, "config/data.yaml", edit)
    with pytest.raises(LpstepsError, match=message) as caught:
        configuration.load_config(payload, ["config/config.yaml"])
    assert "\n" not in str(caught.value)


def test_settings_of_the_command_line_are_told_apart_from_those_of_the_files():
    paper = yaml.safe_load(Path("config/paper.yaml").read_text())
    given = {"seed": 7, "gpu_gres": "gpu"}
    config = configuration.load_config(paper | given, ["config/paper.yaml"], overrides=given)
    spec = jobs.build_tables_spec(config)
    # What says only what jobs ask a cluster for does not belong to the numbers.
    assert (spec["profile"], spec["overrides"]) == ("config/paper.yaml", {"seed": 7})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sed": 7}, r"^--config: sed: unknown key, did you mean 'seed'\?"),
        ({"seed": "x"}, r"^--config: seed: 'x': must be a whole number"),
        ({"overheads": {"batches": 1}}, r"^--config: overheads\.batches: unknown key, did you"),
        ({"batch_tokens": float("inf")}, r"^--config: batch_tokens: inf: must be a finite"),
        ({"calibration": "nope"}, r"^config/paper\.yaml, --config: calibration: "),
        ({"hub_data": True}, r"^config/paper\.yaml: windows: unknown key"),
    ],
)
def test_a_mistake_on_the_command_line_names_it(overrides, message):
    paper = yaml.safe_load(Path("config/paper.yaml").read_text())
    if "hub_data" in overrides:
        paper["windows"] = 3
    with pytest.raises(LpstepsError, match=message):
        configuration.load_config(paper | overrides, ["config/paper.yaml"], overrides=overrides)


def test_the_tables_know_the_windows_of_calibrations_that_rows_name():
    paper = yaml.safe_load(Path("config/paper.yaml").read_text())
    for length in (2048, 512):
        config = configuration.load_config(paper | {"window_length": length}, ["config/paper.yaml"])
        lengths = jobs.build_tables_spec(config)["window_lengths"]
        assert lengths["wikitext2-64"] == lengths["c4"] == length


def test_the_paper_trains_on_long_windows_of_its_own_text(tmp_path: Path):
    paper = yaml.safe_load(Path("config/paper.yaml").read_text())
    other = {
        "windows": 5000,
        "fit": [{"corpus": "c4-train", "split": "calibration"}],
        "heldout": [{"corpus": "wikitext2-training", "split": "validation", "windows": 16}],
    }
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"training_texts": {"other": other}}))
    definitions = [*paper["definitions"], str(tmp_path / "more.yaml")]
    for changes, expected in (
        ({}, True),
        ({"training_text": "other", "definitions": definitions}, False),
        # The training text has windows of its own length.
        ({"window_length": 512}, True),
    ):
        config = configuration.load_config(paper | changes, ["config/paper.yaml"])
        assert jobs.build_tables_spec(config)["printed_training_text"] is expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("dev", "mmlu_humanities: split 'dev' with the examples: MMLU is not in the embedded data"),
        ("test", "mmlu_humanities: MMLU is not in the embedded data"),
    ],
)
def test_a_benchmark_with_shots_needs_both_splits(tmp_path, split, expected):
    payload = edited_definitions(
        tmp_path, "config/data.yaml", lambda c: c["datasets"]["mmlu"]["splits"].pop(split)
    )
    payload["suites"]["mmlu"] = {"protocol": "harness", "benchmarks": MMLU}
    assert expected in message(payload)


def test_every_perplexity_benchmark_scores_a_partition_of_its_corpus(profile, tmp_path):
    config = configuration.load_config(profile, ["config/config.yaml"])
    for name, benchmark in config.benchmarks.items():
        if benchmark.protocol == "perplexity":
            partitions = config.definitions.corpora[benchmark.corpus].partitions
            assert benchmark.split in partitions, name
    payload = edited_definitions(
        tmp_path,
        "config/data.yaml",
        lambda c: c["corpora"]["novels"]["partitions"].pop("test"),
    )
    assert "benchmarks.novels: corpus 'novels' has no partition 'test'" in message(payload)


DEFINITION_MISTAKES = {
    "mistyped method": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch"].update(method="linear_patch"),
        "recoveries.linearpatch: recovery method 'linear_patch' does not exist: did you mean 'linearpatch'?",
    ),
    "unknown parameter": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch"].update(params={"groping": "per_gap"}),
        "recoveries.linearpatch.params: groping: unknown key, did you mean 'grouping'?",
    ),
    "split of a corpus": (
        "config/data.yaml",
        lambda c: c["corpora"]["novels"].update(split="tset"),
        "data.yaml: corpora.novels: split 'tset' is not defined; did you mean 'test'?",
    ),
    "shares above one": (
        "config/data.yaml",
        lambda c: c["corpora"]["novels"]["partitions"].update(test=0.9),
        "corpora.novels.partitions",
    ),
    "unknown archive": (
        "config/data.yaml",
        lambda c: c["datasets"]["piqa"].update(archive="olmo"),
        "datasets.piqa: archive 'olmo' is not defined",
    ),
    "name that leaves its folder": (
        "config/methods.yaml",
        lambda c: c["recoveries"].update({"../x": c["recoveries"]["none"]}),
        "recoveries",
    ),
    "mistyped start": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch+ft"].update(start="linear-patch"),
        "recoveries.linearpatch+ft: start: recovery 'linear-patch' is not defined; did you mean 'linearpatch'?",
    ),
    "start that is distilled itself": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["least-squares+ft"].update(start="linearpatch+ft"),
        "recoveries.least-squares+ft: start: linearpatch+ft: is distilled itself",
    ),
    "mistyped distillation": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch+ft"].update(distillation="kll"),
        "recoveries.linearpatch+ft: distillation 'kll' is not defined; did you mean 'kl'?",
    ),
    "start without a distillation": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch+ft"].pop("distillation"),
        ": recoveries.linearpatch+ft.distillation: required, but not given",
    ),
    "method and distillation": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch+ft"].update(method="linearpatch"),
        ": recoveries.linearpatch+ft.method: unknown key, allowed: distillation, start, title",
    ),
    "mistyped key of a recovery": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch"].update(parms={}),
        ": recoveries.linearpatch.parms: unknown key, did you mean 'params'? "
        "(allowed: method, params, title)",
    ),
    "wrong value in a recovery": (
        "config/methods.yaml",
        lambda c: c["recoveries"]["linearpatch"].update(params=[1]),
        ": recoveries.linearpatch.params: [1]: ",
    ),
    "mistyped key of a part of a training text": (
        "config/data.yaml",
        lambda c: c["training_texts"]["embedded"]["fit"][1].update(window=3),
        ": training_texts.embedded.fit.1.window: unknown key, did you mean 'windows'?",
    ),
    "mistyped key of a hub dataset": (
        "config/data.yaml",
        lambda c: c["datasets"]["piqa"]["hub"].update(revison="x"),
        ": datasets.piqa.hub.revison: unknown key, did you mean 'revision'?",
    ),
    "file outside data_root": (
        "config/data.yaml",
        lambda c: c["datasets"]["piqa"]["local"].update(validation="../piqa.parquet"),
        ": datasets.piqa.local.validation: '../piqa.parquet': must be a relative path without '..'",
    ),
    "repository that is no name": (
        "config/models.yaml",
        lambda c: c["models"]["llama-2-7b"]["source"].update(repo="../../llama"),
        ": models.llama-2-7b.source.repo: '../../llama': must be owner/name of a repository",
    ),
    "revision that can move": (
        "config/models.yaml",
        lambda c: c["models"]["llama-2-7b"]["source"].update(revision="main"),
        ": models.llama-2-7b.source.revision: 'main': must be a full commit hash",
    ),
    "mistyped key of a model in an archive": (
        "config/models.yaml",
        lambda c: c["models"]["smollm2-135m"]["source"].update(fomat="gguf"),
        ": models.smollm2-135m.source.fomat: unknown key, did you mean 'format'?",
    ),
    "more windows to calibrate on than are cut": (
        "config/data.yaml",
        lambda c: c["corpora"]["wikipedia"].update(count=31),
        ": corpora.wikipedia.count is 31; raise it, or ask for fewer",
    ),
    "more windows to train on than are cut": (
        "config/data.yaml",
        lambda c: (
            c["corpora"]["stories"].update(count=100),
            c["training_texts"]["embedded"]["fit"][2].update(windows=101),
        ),
        ": training_texts.embedded.fit.stories.windows: 101: ",
    ),
    "random windows without a number": (
        "config/data.yaml",
        lambda c: c["corpora"]["novels"].update(sampling="random"),
        ": corpora.novels.count: null: sampling random has no natural end; give a number",
    ),
    "offsets at random without a number": (
        "config/data.yaml",
        lambda c: c["corpora"]["novels"].update(sampling="random_offsets", count=None),
        ": corpora.novels.count: null: sampling random_offsets has no natural end",
    ),
    "groups of a text that is divided in order": (
        "config/data.yaml",
        lambda c: c["corpora"]["wikipedia"].update(division="in_order"),
        ": corpora.wikipedia.division: 'in_order': cuts the text wherever a share ends",
    ),
    "mistyped setting of a distillation": (
        "config/methods.yaml",
        lambda c: c["distillations"]["kl"].update(epoch=2),
        "distillations.kl: epoch: unknown key, did you mean 'epochs'?",
    ),
    "impossible setting of a distillation": (
        "config/methods.yaml",
        lambda c: c["distillations"]["kl"].update(batch=3, micro_batch=2),
        "distillations.kl: micro_batch: 2: must divide batch, which is 3",
    ),
    "corpus of a training text": (
        "config/data.yaml",
        lambda c: c["training_texts"]["embedded"]["fit"][1].update(corpus="novel"),
        "training_texts.embedded.fit: corpus 'novel' is not defined; did you mean 'novels'?",
    ),
    "partition of a training text": (
        "config/data.yaml",
        lambda c: c["training_texts"]["embedded"]["heldout"][1].update(split="valid"),
        "training_texts.embedded.heldout.novels: partition 'valid' is not defined",
    ),
    "corpus twice in a training text": (
        "config/data.yaml",
        lambda c: c["training_texts"]["embedded"]["fit"][1].update(corpus="wikipedia"),
        "training_texts.embedded.fit: corpus 'wikipedia' is listed twice",
    ),
    "held-out text that is trained on": (
        "config/data.yaml",
        lambda c: c["training_texts"]["embedded"]["heldout"][2].update(split="calibration"),
        "training_texts.embedded.heldout: stories: partition 'calibration' is trained on",
    ),
    "held-out text that may be trained on": (
        "config/data.yaml",
        lambda c: (
            c["corpora"].update(again={**c["corpora"]["stories"], "seed": 1}),
            c["training_texts"]["embedded"]["heldout"][0].update(corpus="again"),
        ),
        "training_texts.embedded.heldout: again: the same data, through corpus 'stories', is "
        "trained on; hold out other text",
    ),
    "training on text that is scored": (
        "config/data.yaml",
        lambda c: c["training_texts"]["wikipedia-64"]["fit"].append(
            {"corpus": "novels", "split": "test"}
        ),
        "training_text: wikipedia-64: novels: partition 'test' is scored by benchmark 'novels'; "
        "use other text",
    ),
    "calibrating on text that is scored": (
        "config/data.yaml",
        lambda c: c["calibrations"]["wikipedia"].update(split="test"),
        "calibrations.wikipedia: wikipedia: partition 'test' is scored by benchmark 'wikipedia'",
    ),
    "choosing on text that is scored": (
        "config/data.yaml",
        lambda c: c["training_texts"]["wikipedia-64"]["heldout"][0].update(split="test"),
        "training_text: wikipedia-64: wikipedia: partition 'test' is scored by benchmark 'wiki",
    ),
    "training on text that may be scored": (
        "config/data.yaml",
        lambda c: (
            c["corpora"].update(again={**c["corpora"]["stories"], "seed": 1}),
            c["training_texts"]["wikipedia-64"]["fit"].append(
                {"corpus": "again", "split": "calibration"}
            ),
        ),
        "training_text: wikipedia-64: again: the same data, through corpus 'stories', is scored "
        "by benchmark 'stories'",
    ),
    "more windows than the training text has": (
        "config/methods.yaml",
        lambda c: c["distillations"]["kl"].update(windows=65),
        "config/config.yaml: training_text: wikipedia-64: table06 shows recovery 'linearpatch+ft', "
        "whose distillation 'kl' asks for 65 windows of training text, of which there are 64; ask "
        "for fewer",
    ),
    "more windows in use than the training text has": (
        "config/data.yaml",
        lambda c: c["training_texts"]["wikipedia-64"].update(windows=65),
        "distillation 'kl' asks for 65 windows of training text, of which there are 64",
    ),
    "training windows of two lengths": (
        "config/data.yaml",
        lambda c: (
            c["corpora"]["novels"].update(length=256),
            c["training_texts"]["wikipedia-64"]["fit"].append(
                {"corpus": "novels", "split": "calibration"}
            ),
        ),
        "training_text: wikipedia-64: windows of several lengths, 256 in novels, 512 in wikipedia",
    ),
    "short hash": (
        "config/data.yaml",
        lambda c: c["archives"]["smollm2"].update(sha256="abc"),
        "archives.smollm2.sha256: 'abc'",
    ),
}


@pytest.mark.parametrize("mistake", DEFINITION_MISTAKES)
def test_mistake_in_a_definition_is_one_clear_line(tmp_path, mistake):
    file, edit, expected = DEFINITION_MISTAKES[mistake]
    assert expected in message(edited_definitions(tmp_path, file, edit))


ACCEPTED = {
    "as many windows as the training text has": (
        "config/methods.yaml",
        lambda c: c["distillations"]["kl"].update(windows=64),
        lambda config: (config.distillation("kl").windows, config.lacking_text("kl")),
        (64, None),
    ),
    "too many windows where no table asks for them": (
        "config/methods.yaml",
        lambda c: c["distillations"]["kl-top-50"].update(windows=9999),
        lambda config: config.lacking_text("kl-top-50"),
        "asks for 9999 windows of training text, of which there are 64",
    ),
    "the same corpus, another partition": (
        "config/data.yaml",
        lambda c: c["training_texts"]["wikipedia-64"]["heldout"].append(
            {"corpus": "novels", "split": "calibration"}
        ),
        lambda config: [
            (source.corpus, source.split, source.windows)
            for source in config.definitions.training_texts["wikipedia-64"].heldout
        ],
        [("wikipedia", "validation", 4), ("novels", "calibration", None)],
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_looks_like_a_mistake_and_is_none(tmp_path, case):
    file, edit, resolved, expected = ACCEPTED[case]
    payload = edited_definitions(tmp_path, file, edit)
    assert resolved(configuration.load_config(payload, ["config/config.yaml"])) == expected


def test_windows_that_are_counted_later_may_be_enough(tmp_path, profile):
    fit = [
        {"corpus": "wikipedia", "split": "calibration", "windows": 3},
        {"corpus": "novels", "split": "calibration"},
    ]
    heldout = [{"corpus": "novels", "split": "validation"}]
    texts = tmp_path / "texts.yaml"
    texts.write_text(yaml.safe_dump({"training_texts": {"own": {"fit": fit, "heldout": heldout}}}))
    methods = edited_definitions(
        tmp_path, "config/methods.yaml", lambda c: c["distillations"]["kl"].update(windows=999)
    )["definitions"]
    profile |= {"definitions": [*methods, str(texts)], "training_text": "own"}
    config = configuration.load_config(profile, ["config/config.yaml"])
    assert config.distillation("kl").windows == 999
    assert [source.windows for source in config.definitions.training_texts["own"].fit] == [3, None]
    assert config.lacking_text("kl") is None


def test_one_name_in_two_files_is_refused(profile):
    profile["definitions"] = [*profile["definitions"], "config/methods.yaml"]
    assert "already defined in config/methods.yaml" in message(profile)


def test_specs_are_plain_and_stable(profile):
    """Snakemake drops parameters that are not plain builtins, and compares their printed form."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(k) is str and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    config = configuration.load_config(profile, ["config/config.yaml"])
    again = configuration.load_config(copy.deepcopy(profile), ["config/config.yaml"])
    for loaded in (config, again):
        loaded.definitions.distillations["kl"] = {"mode": "offline"}
    for make in (
        lambda c: jobs.archive_spec(c, "smollm2"),
        lambda c: jobs.convert_model_spec(c, "smollm2-135m"),
        lambda c: jobs.fetch_data_spec(c, "piqa"),
        lambda c: jobs.tokenize_corpus_spec(c, "smollm2-135m", "novels", "test"),
        lambda c: jobs.calibrate_spec(c, "wikipedia"),
        lambda c: jobs.rank_layers_spec(c, "smollm2-135m", "wikipedia", "sleb"),
        lambda c: jobs.choose_layers_spec(c, "smollm2-135m", "wikipedia", "sleb", 5),
        lambda c: jobs.build_patch_spec(c, "smollm2-135m", "wikipedia", "linearpatch-per-layer"),
        lambda c: jobs.store_teacher_spec(c, "k100-wall-hidden"),
        lambda c: jobs.distill_spec(c, "linearpatch+ft"),
        lambda c: jobs.evaluate_spec(c, "smollm2-135m", "dense", "qa"),
        jobs.build_tables_spec,
    ):
        assert plain(make(config)) and repr(make(config)) == repr(make(again))


def test_a_method_that_runs_the_model_gets_the_text_of_the_calibration(profile):
    """And with it the tokens that do not count, so that no method counts them unawares."""
    config = configuration.load_config(profile, ["config/config.yaml"])
    calibrations = config.definitions.calibrations
    calibrations["wikipedia"] = calibrations["wikipedia"].model_copy(update={"exclude_first": 4})
    text = {"windows": 32, "exclude_first": 4}

    def ranks(selection: str) -> dict[str, Any]:
        return jobs.rank_layers_spec(config, "smollm2-135m", "wikipedia", selection)

    def builds(recovery: str) -> dict[str, Any]:
        return jobs.build_patch_spec(config, "smollm2-135m", "wikipedia", recovery)

    for spec in (ranks("sleb"), ranks("repair-aware"), builds("least-squares-sequential")):
        assert {key: spec[key] for key in text} == text
    for spec in (ranks("shortgpt"), ranks("last"), builds("linearpatch"), builds("least-squares")):
        assert not text.keys() & spec.keys()


@pytest.mark.parametrize(
    ("file", "lacking"),
    # The default leaves width pruning out; its table says so.
    [("config.yaml", {"llm-pruner"}), ("full.yaml", set()), ("beyond.yaml", set())],
)
def test_each_profile_defines_what_its_tables_show(file: str, lacking: set[str]):
    config = configuration.read_config(Path("config", file))
    defined = config.definitions
    queries = {query for table in config.tables.values() for query in table.queries() if query}
    chosen = {*defined.selections, *defined.width_prunings}
    calibrations = {None, *defined.calibrations}
    assert {query.selection for query in queries} - chosen == lacking
    assert {query.recovery for query in queries} <= defined.recoveries.keys()
    assert {query.calibration for query in queries} <= calibrations


def test_the_full_profile_shows_every_kind_of_training():
    config = configuration.read_config(Path("config/full.yaml"))
    shown = {variant.recovery for variant in jobs.variants(config)}
    trained = jobs.distilled_recoveries(config)
    too_long = {name for name in trained if jobs.recovery_unsuited(config, "smollm2-135m", name, 5)}
    # The paper's numbers of samples, in its own profile.
    assert too_long == {f"linearpatch+ft-samples-{n}" for n in (2500, 7500)}
    assert set(trained) - too_long <= shown


def test_memory_of_a_ranking(profile):
    """Weights and gradients in float32, activations, two float64 matrices for a repaired layer."""
    config = configuration.load_config(profile, ["config/config.yaml"])
    model = config.definitions.models["smollm2-135m"]

    def rank_layers_mb(selection: str) -> int:
        return jobs.rank_layers_mb(config, "smollm2-135m", "wikipedia", selection)

    # 32 windows, 31 boundaries.
    read = int(6 * 32 * 31 * 576 * 8e-6)
    assert rank_layers_mb("shortgpt") == 1000 + read
    sleb = rank_layers_mb("sleb")
    assert 0 <= sleb - (2500 + 2 * 4e-6 * model.parameters) + 2 <= 2
    # Ten windows of 128 tokens.
    more = rank_layers_mb("taylor") - sleb
    assert more == int(1280 * 30 * 576 * 16 * 4e-6)
    matrices = 30 * 2 * 8e-6 * 576**2
    for selection, statistics in (("repair-aware", read), ("repair-aware-layers", 0)):
        assert rank_layers_mb(selection) - sleb == int(matrices) + statistics


def test_what_reads_statistics_asks_for_their_memory():
    """Of the widest model, and of as many windows as the paper tries."""
    config = configuration.read_config(Path("config/paper.yaml"))
    for model, calibration, windows in (
        ("llama-2-13b", "wikitext2", 128),
        ("llama-2-7b", "wikitext2-512", 512),
    ):
        entry = config.definitions.models[model]
        held = 5e-6 * windows * (entry.n_layers + 1) * entry.hidden_size * 8
        assert held > 1000
        more = jobs.rank_layers_mb(config, model, calibration, "shortgpt") - 1000
        assert held < more < 1.5 * held
        more = jobs.build_patch_mb(config, model, calibration, 5, "linearpatch") - 1000
        assert held < more < 1.5 * held
    assert jobs.build_tables_mb(config) - 1500 == max(
        statistics_mb(config, model, "wikitext2")
        for figure in ("figure1", "figure4")
        for model in config.profile.figures[figure]
    )
    none = config.model_copy(update={"profile": config.profile.model_copy(update={"figures": {}})})
    assert jobs.build_tables_mb(none) == 1500


def test_tokenising_asks_for_the_memory_of_the_text(tmp_path, monkeypatch):
    config = configuration.read_config(Path("config/paper.yaml"))
    monkeypatch.chdir(tmp_path)
    names = ("wikitext2-train", "c4-train")
    assert [jobs.tokenize_corpus_mb(config, name) for name in names] == [1500, 1500]
    for name in names:
        manifest = Path(jobs.corpora_manifest(config, name))
        manifest.parent.mkdir(parents=True)
        files = {"train.parquet": {"sha256": "a" * 64, "bytes": 10_000_000}}
        manifest.write_text(json.dumps({"files": files}))
    # Random documents are tokenised one by one, joined ones in one piece.
    assert [jobs.tokenize_corpus_mb(config, name) for name in names] == [6900, 1560]
    manifest.write_text("{")
    assert jobs.tokenize_corpus_mb(config, "c4-train") == 1500


def test_memory_to_choose_a_dtype_grows_with_the_model(profile):
    config = configuration.load_config(profile, ["config/config.yaml"])
    assert jobs.choose_dtype_mb(config, "smollm2-135m") == 1500 + 24 * 576**2 // 10**6
    # The widest of the paper's models has a matrix of 5120 x 13824.
    more = jobs.choose_dtype_mb(config, "llama-2-13b") - 1500
    assert more >= 5120 * 13824 * (4 + 2) / 1e6


def test_the_snakefile_loads_nothing_heavy():
    """Snakemake parses the rules again in every cluster job, so importing them must be quick."""
    import subprocess
    import sys

    program = (
        "import sys, pathlib, lpsteps.config, lpsteps.jobs, lpsteps.fingerprint\n"
        "lpsteps.config.read_config(pathlib.Path('config/config.yaml'))\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'pandas', 'pyarrow', 'datasets', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_schema_for_editors_is_up_to_date():
    from lpsteps.config_schema import schema_text

    assert Path("config/schema.json").read_text() == schema_text(), "run `make schema`"
