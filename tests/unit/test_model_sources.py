"""Where models and data come from: the Hub at a commit, or folders in its place."""

from __future__ import annotations

import copy
import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lpsteps import jobs
from lpsteps.config import Config, Definitions, dataset_origin, load_config, read_config
from lpsteps.data.checkpoints import take_local_model
from lpsteps.errors import LpstepsError

REPO = "meta-llama/Llama-2-7b-hf"
PROFILE = yaml.safe_load(Path("config/paper.yaml").read_text())


def paper(**changes: Any) -> Config:
    return load_config(PROFILE | changes, ["config/paper.yaml"])


def _save(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md", "manifest.json"):
        (folder / name).write_text("{}")
    return folder


def test_a_hub_model_is_fetched_at_its_commit() -> None:
    spec = jobs.fetch_model_spec(paper(), "llama-2-7b")
    assert spec["source"]["repo"] == REPO
    assert len(spec["source"]["revision"]) == 40
    assert jobs.local_model_files(paper(), "llama-2-7b") == []


@pytest.mark.parametrize("name", [REPO, "llama-2-7b"])
def test_a_folder_below_model_root_is_taken_first(tmp_path: Path, name: str) -> None:
    folder = _save(tmp_path / name)
    config = paper(model_root=str(tmp_path))
    spec = jobs.fetch_model_spec(config, "llama-2-7b")
    assert spec["source"] == {"kind": "local", "path": str(folder)}
    files = jobs.local_model_files(config, "llama-2-7b")
    assert files == [str(folder / "config.json"), str(folder / "model.safetensors")]
    facts = jobs.build_tables_spec(config)["models"]["llama-2-7b"]
    # The commit of a folder is not known.
    assert (facts["source"], facts["revision"]) == (REPO, None)
    assert jobs.fetch_model_spec(config, "llama-2-13b")["source"]["kind"] == "hub"


def test_the_files_of_a_folder_are_those_that_are_taken_over(tmp_path: Path) -> None:
    """Neither an edit of a second copy of the weights nor of code that may not run makes anything."""
    folder = _save(tmp_path / "models" / REPO)
    for name in ("consolidated.safetensors", "modeling.py", "tokenizer.json"):
        (folder / name).write_text("{}")
    config = paper(model_root=str(tmp_path / "models"))
    taken = tmp_path / "taken"
    for trusted in (False, True):
        model = config.definitions.models["llama-2-7b"].model_copy(
            update={"trust_remote_code": trusted}
        )
        models = config.definitions.models | {"llama-2-7b": model}
        definitions = config.definitions.model_copy(update={"models": models})
        config = config.model_copy(update={"definitions": definitions})
        taken.mkdir()
        take_local_model(folder, taken, trusted)
        declared = [Path(path).name for path in jobs.local_model_files(config, "llama-2-7b")]
        assert declared == sorted(path.name for path in taken.iterdir())
        assert ("modeling.py" in declared) == trusted
        shutil.rmtree(taken)


def test_a_folder_with_a_shard_missing_is_planned(tmp_path: Path) -> None:
    """The step tells what is missing, in one line."""
    folder = _save(tmp_path / REPO)
    (folder / "model.safetensors").rename(folder / "model-2.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1"}}')
    config = paper(model_root=str(tmp_path))
    assert jobs.local_model_files(config, "llama-2-7b") == []
    with pytest.raises(LpstepsError, match=r"model-1: missing, but in model\.safetensors\.index"):
        take_local_model(folder, tmp_path, False)


def test_the_folder_of_the_repository_comes_before_that_of_the_entry(tmp_path: Path) -> None:
    folder = _save(tmp_path / REPO)
    _save(tmp_path / "llama-2-7b")
    source = jobs.fetch_model_spec(paper(model_root=str(tmp_path)), "llama-2-7b")["source"]
    assert source["path"] == str(folder)


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    source = jobs.fetch_model_spec(paper(model_root=str(tmp_path)), "llama-2-7b")["source"]
    assert source["kind"] == "hub"


def test_the_hub_delivers_data_to_profiles_that_say_so(tmp_path: Path) -> None:
    config = paper()
    assert jobs.fetch_data_spec(config, "wikitext2")["splits"]["test"] == {
        "repo": "Salesforce/wikitext",
        "config": "wikitext-2-raw-v1",
        "revision": "b08601e04326c79dfdd32d625aee71d232d685c3",
        "files": None,
        "format": None,
        "split": "test",
    }
    # What is in a package stays there, and local files come before both.
    assert set(jobs.fetch_data_spec(config, "piqa")["splits"]["validation"]) == {"format", "member"}
    (tmp_path / "wikitext2_raw_test.parquet").touch()
    split = jobs.fetch_data_spec(paper(data_root=str(tmp_path)), "wikitext2")["splits"]["test"]
    assert split == {"path": f"{tmp_path}/wikitext2_raw_test.parquet"}
    with pytest.raises(LpstepsError, match=r"calibration: wikitext2: .* or hub_data: true"):
        paper(hub_data=False)


def test_a_dataset_that_only_the_hub_has_is_fetched_in_the_splits_that_are_read() -> None:
    config = paper()
    datasets = config.definitions.datasets
    hub_only = {
        name: datasets[name].model_copy(update={"local": {}, "splits": {}, "archive": None})
        for name in ("wikitext2", "mmlu")
    }
    definitions = config.definitions.model_copy(update={"datasets": datasets | hub_only})
    config = config.model_copy(update={"definitions": definitions})
    assert set(jobs.fetch_data_spec(config, "wikitext2")["splits"]) == {"test"}
    mmlu = jobs.fetch_data_spec(config, "mmlu")["splits"]
    assert {split: source["repo"] for split, source in mmlu.items()} == {
        "dev": "cais/mmlu",
        "test": "cais/mmlu",
    }


def test_the_hub_has_no_split_but_those_of_the_listed_files() -> None:
    config = paper()
    assert dataset_origin(config, "c4", "validation") == "hub"
    assert dataset_origin(config, "c4", "train") is None
    assert dataset_origin(config, "wikitext2", "train") == "hub"


def test_what_no_commit_pins_is_planned_and_not_fetched(tmp_path: Path) -> None:
    config = paper()
    assert jobs.fetch_model_spec(config, "baichuan-2-7b")["source"]["revision"] is None
    assert jobs.fetch_data_spec(config, "ptb")["splits"]["validation"]["revision"] is None
    with pytest.raises(LpstepsError) as error:
        jobs.refuse_unpinned(config, ["llama-2-7b", "baichuan-2-7b"], ["ptb", "c4", "wsc273"])
    message = str(error.value)
    assert message.startswith(
        "models.baichuan-2-7b.source.revision, datasets.ptb.hub.revision, "
        "datasets.wsc273.hub.revision: null: nothing is fetched without a commit hash"
    )
    assert "History" in message and "\n" not in message
    jobs.refuse_unpinned(config, ["llama-2-7b", "smollm2-135m"], ["c4", "piqa", "wikitext2"])
    _save(tmp_path / "baichuan-2-7b")
    (tmp_path / "ptb_valid.txt.gz").touch()
    local = paper(model_root=str(tmp_path), data_root=str(tmp_path))
    jobs.refuse_unpinned(local, ["baichuan-2-7b"], ["ptb"])


def test_code_runs_for_the_one_entry_that_says_so() -> None:
    models = paper().definitions.models
    assert [name for name, model in models.items() if model.trust_remote_code] == ["baichuan-2-7b"]
    assert jobs.fetch_model_spec(paper(), "baichuan-2-7b")["trust_remote_code"] is True
    assert jobs.fetch_model_spec(paper(), "llama-2-7b")["trust_remote_code"] is False


@pytest.mark.parametrize("path", sorted(Path("reports/published").glob("table??.csv")), ids=str)
def test_the_paper_profile_has_every_printed_row(path: Path) -> None:
    table = path.stem
    with path.open(encoding="utf-8", newline="") as stream:
        printed = {(row["model"], int(row["n"] or 0)) for row in csv.DictReader(stream)}
    shown = paper().profile.tables[table]
    assert {model for model, _ in printed} <= set(shown)
    assert {(model, n) for model, n in printed if n} == {
        (model, n) for model, counts in shown.items() for n in counts
    }


def test_the_paper_profile_has_the_papers_settings() -> None:
    config = paper()
    assert config == read_config(Path("config/paper.yaml"))
    assert set(config.tables) >= {f"table{number:02}" for number in range(1, 18)}
    assert {"figure1", "figure2", "figure4"} <= set(config.figures)
    calibration = config.definitions.calibrations[config.profile.calibration]
    corpus = config.definitions.corpora[calibration.corpus]
    assert (calibration.windows, corpus.dataset) == (128, "wikitext2-train")
    assert jobs.training_length(config) == config.profile.window_length == 2048
    assert jobs.training_text(config).available == 7500
    read = {
        name: jobs.distill_spec(config, name)["settings"]["windows"]
        for name in jobs.distilled_recoveries(config)
    }
    table11 = {name: n for name, n in read.items() if "samples" in name}
    assert table11 == {f"linearpatch+ft-samples-{n}": n for n in (32, 64, 2500, 7500)}
    assert {n for name, n in read.items() if name not in table11} == {5000}
    costs = jobs.measure_overheads_spec(config)
    assert (costs["batch"], costs["window_length"], costs["repetitions"]) == (16, 2048, 1000)
    assert costs["length"] is None
    assert all(
        limit is None
        for suite in config.profile.suites.values()
        for limit in suite.benchmarks.values()
    )


def test_the_dense_rows_of_both_llama_3_are_scored() -> None:
    variants = jobs.variants(paper())
    scored = {
        jobs.Variant(name): {"wikitext2", "c4", "ptb"} for name in ("llama-3-8b", "llama-3.1-8b")
    }
    for variant, benchmarks in scored.items():
        assert benchmarks <= set(variants[variant])
    assert [v for v in variants if v.model == "llama-3.1-8b"] == [jobs.Variant("llama-3.1-8b")]


def test_a_stated_vocabulary_reaches_the_tables() -> None:
    facts = jobs.build_tables_spec(paper())["models"]
    assert facts["llama-3-8b"]["vocabulary"] == 128256
    config = load_config(yaml.safe_load(Path("config/config.yaml").read_text()), ["config.yaml"])
    assert "vocabulary" not in jobs.build_tables_spec(config)["models"]["smollm2-135m"]
    for name, model in paper().definitions.models.items():
        if model.vocabulary is None:
            continue
        # An embedding and a head of its own, and the final norm, are all that is outside layers.
        outside = model.parameters - model.n_layers * model.layer_parameters
        assert outside == (2 * model.vocabulary + 1) * model.hidden_size, name


def test_another_order_of_files_and_shares_is_no_other_setting() -> None:
    """Snakemake compares settings as they are written, so the order is one of ours."""
    config = paper()
    definitions = config.definitions.model_dump(mode="json")
    archive, corpus, dataset = "order", "order", "order"
    definitions["archives"][archive] = next(iter(definitions["archives"].values())) | {
        "member_sha256": {"b": "0" * 64, "a": "1" * 64}
    }
    definitions["corpora"][corpus] = definitions["corpora"]["wikipedia"] | {"dataset": dataset}
    definitions["datasets"][dataset] = {
        "title": "Ordered",
        "columns": ["text"],
        "hub": {"repo": "a/b", "revision": "0" * 40, "files": {"b": "b.txt", "a": "a.txt"}},
    }

    def settings(turned: bool) -> str:
        content = copy.deepcopy(definitions)
        if turned:
            for place, key in (
                (content["archives"][archive], "member_sha256"),
                (content["corpora"][corpus], "partitions"),
                (content["datasets"][dataset]["hub"], "files"),
            ):
                assert len(place[key]) > 1
                place[key] = dict(reversed(place[key].items()))
        read = config.model_copy(update={"definitions": Definitions.model_validate(content)})
        specs = [
            jobs.archive_spec(read, archive),
            jobs.tokenize_corpus_spec(read, "llama-2-7b", corpus, "test"),
            jobs.fetch_data_spec(read, dataset),
        ]
        return repr(specs)

    assert "b.txt" in settings(False)
    assert settings(False) == settings(True)
