from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_tokenizer import VOCABULARY, train_tokenizer

from lpsteps import fingerprint
from lpsteps.artifacts import (
    file_manifest,
    read_json,
    sha256_file,
    write_json,
    write_parquet,
)
from lpsteps.evaluation.benchmark import load_benchmark
from lpsteps.patches import GapPatch, Operation, PatchSet, write_patches
from lpsteps.plan import Plan, write_plan
from lpsteps.steps import evaluate_harness, evaluate_perplexity

Run = Callable[..., dict[str, dict[str, Any]]]

N_WINDOWS, LENGTH = 5, 24


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Any) -> Path:
    """A folder with a model, its windows, two datasets, a plan and a patch."""
    model = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=256)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    manifest(folder)
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})

    chance = np.random.default_rng(0)
    windows = chance.integers(1, VOCABULARY, size=(N_WINDOWS, LENGTH)).tolist()
    write_parquet(tmp_path / "windows.parquet", pa.table({"token_ids": windows}))

    questions = [
        {"goal": f"open box {i}", "sol1": "use a key", "sol2": "hit it", "label": i % 2}
        for i in range(8)
    ]
    sentences = [
        {
            "sentence": f"{i} ran as _ fell.",
            "option1": "A",
            "option2": "Bo",
            "answer": str(i % 2 + 1),
        }
        for i in range(8)
    ]
    for name, rows in {"piqa": questions, "winogrande": sentences}.items():
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name / "validation.parquet", pa.Table.from_pylist(rows))
        manifest(tmp_path / name)

    write_plan(tmp_path / "plan.json", Plan.removing(6, (3, 2)), model="m", selection="s")
    scale = Operation("scale", np.linspace(0.5, 1.5, 48))
    write_patches(
        tmp_path / "patch.safetensors",
        tmp_path / "patch.manifest.json",
        PatchSet((GapPatch(2, 4, (scale,)),)),
        recovery="r",
    )
    return tmp_path


def manifest(folder: Path) -> None:
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    write_json(folder / "manifest.json", file_manifest(folder, names))


def arguments(workspace: Path, *, plan: bool = False, patch: bool = False) -> list[str]:
    options = ["--model", str(workspace / "model/manifest.json")]
    options += ["--compute", str(workspace / "compute.json")]
    options += ["--log", str(workspace / "log.txt")]
    if plan:
        options += ["--plan", str(workspace / "plan.json")]
    if patch:
        options += ["--patch-manifest", str(workspace / "patch.manifest.json")]
    return options


def spec(names: list[str], **settings: Any) -> list[str]:
    suite = {name: load_benchmark(name).scoring() for name in names}
    common = {"model": "m", "variant": "dense", "batch_tokens": 64, "benchmarks": suite}
    return ["--spec", json.dumps(common | settings)]


def small_total(**settings: Any) -> list[str]:
    """The spec of a benchmark whose definition states fewer documents than its split has."""
    suite = {"piqa": load_benchmark("piqa").scoring() | {"total": 7}}
    return spec([], add_bos=False, benchmarks=suite, **settings)


@pytest.fixture
def perplexities(workspace: Path) -> Run:
    """Run the perplexity step and return its scores."""

    def run(
        *benchmarks: str, plan: bool = False, patch: bool = False, **settings: Any
    ) -> dict[str, dict[str, Any]]:
        options = arguments(workspace, plan=plan, patch=patch) + spec(list(benchmarks), **settings)
        for name in benchmarks:
            options += ["--windows", f"{name}={workspace / 'windows.parquet'}"]
            options += ["--score", f"{name}={workspace / 'scores' / name}.json"]
        assert evaluate_perplexity.main(options) == 0, (workspace / "log.txt").read_text()
        return {name: read_json(workspace / "scores" / f"{name}.json") for name in benchmarks}

    return run


@pytest.fixture
def accuracies(workspace: Path) -> Run:
    """Run the harness step and return its scores."""

    def run(
        *benchmarks: str, plan: bool = False, patch: bool = False, **settings: Any
    ) -> dict[str, dict[str, Any]]:
        options = arguments(workspace, plan=plan, patch=patch)
        options += spec(list(benchmarks), **{"add_bos": False} | settings)
        for name in benchmarks:
            options += ["--data", f"{name}={workspace / name / 'manifest.json'}"]
            options += ["--score", f"{name}={workspace / 'scores' / name}.json"]
        assert evaluate_harness.main(options) == 0, (workspace / "log.txt").read_text()
        return {name: read_json(workspace / "scores" / f"{name}.json") for name in benchmarks}

    return run


def test_perplexity_of_the_dense_model(perplexities: Run, workspace: Path, tiny_model: Any) -> None:
    score = perplexities("novels", "stories")["novels"]
    import pyarrow.parquet as pq

    windows = torch.tensor(pq.read_table(workspace / "windows.parquet")["token_ids"].to_pylist())
    model = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=256)
    logits = model(windows).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())
    assert score["value"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert score.pop("settings") == {
        "corpus": "novels",
        "dtype": "float32",
        "split": "test",
        "window_length": LENGTH,
    }
    samples = score.pop("samples")
    assert samples["ids"] == list(range(N_WINDOWS))
    assert np.mean(samples["values"]) == pytest.approx(float(loss), abs=1e-5)
    assert {key: score[key] for key in score if key not in ("value", "stderr")} == {
        "schema": 1,
        "model": "m",
        "variant": "dense",
        "benchmark": "novels",
        "protocol": "perplexity",
        "metric": "perplexity",
        "unit": "perplexity",
        "n": N_WINDOWS,
        "total": N_WINDOWS,
        "limited": False,
    }


def test_windows_can_be_fewer_than_there_are(perplexities: Run) -> None:
    scores = perplexities("novels", "stories", windows={"novels": 2, "stories": None})
    novels, stories = scores["novels"], scores["stories"]
    assert (novels["n"], novels["total"], novels["limited"]) == (2, N_WINDOWS, True)
    assert (stories["n"], stories["limited"]) == (N_WINDOWS, False)
    assert novels["samples"]["values"] == pytest.approx(stories["samples"]["values"][:2])


@pytest.mark.parametrize("protocol", ["perplexities", "accuracies"])
def test_layers_and_patch_count(protocol: str, request: pytest.FixtureRequest) -> None:
    run, name = request.getfixturevalue(protocol), {"p": "novels", "a": "piqa"}[protocol[0]]
    dense = run(name)[name]
    pruned = run(name, plan=True)[name]
    patched = run(name, plan=True, patch=True, variant="x/n2/r")[name]
    if protocol == "perplexities":
        assert len({score["value"] for score in (dense, pruned, patched)}) == 3
    assert patched["variant"] == "x/n2/r"


def test_accuracy_of_the_dense_model(accuracies: Run, workspace: Path) -> None:
    scores = accuracies("piqa", "winogrande", limits={"piqa": 5}, add_bos=True)
    piqa, winogrande = scores["piqa"], scores["winogrande"]
    assert (piqa["n"], piqa["total"], piqa["limited"]) == (5, 1838, True)
    assert piqa["metric"] == "acc_norm"
    assert winogrande["metric"] == "acc"
    for score in scores.values():
        outcomes = score["samples"]["values"]
        assert set(map(repr, outcomes)) <= {"0", "1"}
        assert len(set(score["samples"]["ids"])) == score["n"] == len(outcomes)
        assert score["value"] == pytest.approx(100 * np.mean(outcomes))
        expected = 100 * np.std(outcomes, ddof=1) / math.sqrt(score["n"])
        assert score["stderr"] == pytest.approx(expected)
        assert score["unit"] == "percent"
    settings = winogrande["settings"]
    assert settings["add_bos"] is True
    assert settings["shots"] == 0
    assert settings["dtype"] == "float32"
    assert settings["data_sha256"] == sha256_file(workspace / "winogrande/validation.parquet")
    assert settings.keys() >= {"harness", "task_version", "template_sha256", "prompts_sha256"}


def test_a_benchmark_of_several_tasks_with_examples(accuracies: Run, workspace: Path) -> None:
    def rows(count: int) -> list[dict[str, Any]]:
        return [
            {"question": f"{i} of {s}?", "subject": s, "choices": list("wxyz"), "answer": i % 4}
            for s in ("anatomy", "virology")
            for i in range(count)
        ]

    folder = workspace / "mmlu_other"
    folder.mkdir()
    for split, count in {"dev": 5, "test": 4}.items():
        write_parquet(folder / f"{split}.parquet", pa.Table.from_pylist(rows(count)))
    manifest(folder)
    suite = load_benchmark("mmlu_other").scoring()
    suite["tasks"] = {"mmlu_anatomy": "anatomy", "mmlu_virology": "virology"}
    limits = {"mmlu_other": 5}
    score = accuracies("mmlu_other", benchmarks={"mmlu_other": suite}, limits=limits)["mmlu_other"]
    # Three of the first subject's rows 0 to 3, two of the second one's 4 to 7.
    assert score["samples"]["ids"] == [0, 2, 3, 5, 7]
    assert (score["n"], score["total"], score["limited"]) == (5, 3242, True)
    settings = score["settings"]
    assert (settings["shots"], settings["split"], settings["fewshot_split"]) == (5, "test", "dev")
    assert settings["data_sha256"] == sha256_file(folder / "test.parquet")
    assert settings["fewshot_sha256"] == sha256_file(folder / "dev.parquet")
    assert settings["tasks"] == ["mmlu_anatomy", "mmlu_virology"]


@pytest.mark.parametrize("protocol", ["perplexities", "accuracies"])
def test_the_same_run_gives_the_same_bytes(
    protocol: str, request: pytest.FixtureRequest, workspace: Path
) -> None:
    run, name = request.getfixturevalue(protocol), {"p": "novels", "a": "piqa"}[protocol[0]]
    digests = []
    for _ in range(2):
        run(name, plan=True, patch=True)
        digests.append(sha256_file(workspace / "scores" / f"{name}.json"))
        shutil.rmtree(workspace / "scores")
    assert digests[0] == digests[1]


def test_a_benchmark_does_not_depend_on_its_company(accuracies: Run) -> None:
    alone = accuracies("winogrande")["winogrande"]
    assert accuracies("piqa", "winogrande")["winogrande"] == alone


def test_the_record_names_every_input(accuracies: Run, workspace: Path) -> None:
    accuracies("piqa", plan=True, patch=True)
    record = read_json(workspace / "scores/piqa.json.record.json")
    read = {Path(entry["path"]).relative_to(workspace).as_posix() for entry in record["inputs"]}
    assert read >= {
        "compute.json",
        "model/manifest.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "patch.manifest.json",
        "patch.safetensors",
        "piqa/manifest.json",
        "piqa/validation.parquet",
        "plan.json",
    }


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--patch-manifest", "patch.manifest.json"], "needs --plan"),
        (["--data", "piqua=x"], "--data: piqua: did you mean 'piqa'?"),
        (["--data", "piqa"], "--data: piqa: expected BENCHMARK=PATH"),
        (["--data", "piqa=missing/manifest.json"], "missing/manifest.json: no such file"),
        (["--compute", "missing.json"], "missing.json: no such file"),
        (["--plan", "model/config.json"], "model/config.json"),
        (spec([], add_bos=False), "benchmarks"),
        (spec(["piqa"], add_bos=False, limit={}), "limit: unknown key, did you mean 'limits'?"),
        (spec(["piqa"], add_bos=False, limits={"piqa": 0}), "limits.piqa: 0"),
        (spec(["piqa", "copa"], add_bos=False), "--data: copa: is in the spec"),
        (spec(["novels"], add_bos=False), "benchmarks.novels"),
        (small_total(limits={}), "validation.parquet: 8 rows of piqa: `total` of the benchmark"),
        # A limit below `total` hides nothing.
        (small_total(limits={"piqa": 3}), "says that the whole split has 7; correct it"),
    ],
)
def test_a_mistake_gives_one_line_and_no_score(
    extra: list[str],
    message: str,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workspace)
    options = arguments(workspace) + spec(["piqa"], add_bos=False)
    options += ["--data", "piqa=piqa/manifest.json", "--score", "piqa=scores/piqa.json", *extra]
    assert evaluate_harness.main(options) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (workspace / "scores/piqa.json").exists()


def test_a_missing_split_is_named(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    suite = {"piqa": load_benchmark("piqa").scoring() | {"split": "test"}}
    options = arguments(workspace) + spec([], benchmarks=suite, add_bos=False)
    options += [
        "--data",
        f"piqa={workspace}/piqa/manifest.json",
        "--score",
        "piqa=scores/piqa.json",
    ]
    assert evaluate_harness.main(options) == 1
    assert "split: test: allowed: validation" in capfd.readouterr().err


@pytest.mark.parametrize("windows", [[], [[1, 2, 3], [1, 2]], [[1], [2]]])
def test_windows_of_a_wrong_shape_are_named(
    windows: list[list[int]], workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = workspace / "windows.parquet"
    write_parquet(path, pa.table({"token_ids": pa.array(windows, pa.list_(pa.int32()))}))
    options = arguments(workspace) + spec(["novels"])
    options += ["--windows", f"novels={path}", "--score", f"novels={workspace}/novels.json"]
    assert evaluate_perplexity.main(options) == 1
    assert "expected windows of one length" in capfd.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_window_whose_loss_is_not_finite_is_named(
    value: float,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    losses = [2.0, value, 3.0]
    monkeypatch.setattr(evaluate_perplexity, "window_losses", lambda *_, **__: losses)
    options = arguments(workspace) + spec(["novels"])
    options += ["--windows", f"novels={workspace / 'windows.parquet'}"]
    options += ["--score", f"novels={workspace}/novels.json"]
    assert evaluate_perplexity.main(options) == 1
    error = capfd.readouterr().err
    assert "novels: window 1: the loss is not finite; set dtype: float32" in error


def test_an_edit_of_one_protocol_leaves_the_scores_of_the_other() -> None:
    perplexity = fingerprint.closure(["lpsteps.steps.evaluate_perplexity"])
    harness = fingerprint.closure(["lpsteps.steps.evaluate_harness"])
    assert "lpsteps.evaluation.perplexity" in perplexity.keys() - harness.keys()
    assert "lpsteps.evaluation.harness" in harness.keys() - perplexity.keys()
    assert "lpsteps.evaluation.scoring" in harness.keys() - perplexity.keys()
    assert "lpsteps.evaluation.benchmark" not in perplexity.keys() | harness.keys()
