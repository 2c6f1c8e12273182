"""The benchmarks run and state what they ran; nothing is said about their speed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_tokenizer import VOCABULARY, train_tokenizer

from benchmarks import (
    calibration,
    distillation,
    hadamard,
    least_squares,
    measure,
    patch_application,
    perplexity,
    pipeline,
    question_answering,
)
from benchmarks.inputs import Inputs
from benchmarks.official_calibration import official_scales, official_scores
from lpsteps.artifacts import file_manifest, write_json, write_parquet
from lpsteps.calibration import stream_statistics
from lpsteps.config import read_config
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.jobs import plan_folders, variants
from lpsteps.patches import GapPatch, Operation, PatchSet, write_patches
from lpsteps.plan import Plan, write_plan

WINDOWS = np.random.default_rng(0).integers(3, 128, (9, 12))


@pytest.fixture
def given(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(tmp_path / "windows.parquet", pa.table({"token_ids": token_ids}))
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    write_plan(tmp_path / "plan.json", Plan.removing(6, (2, 3)), model="tiny", selection="s")
    matrix = np.eye(48) + 0.3 * np.random.default_rng(1).standard_normal((48, 48))
    start = PatchSet((GapPatch(2, 4, (Operation("matrix", matrix),)),))
    manifest = tmp_path / "patch.manifest.json"
    write_patches(tmp_path / "patch.safetensors", manifest, start, recovery="start")
    return [
        f"--model={tiny_model_folder('llama')}",
        f"--compute={tmp_path / 'compute.json'}",
        f"--plan={tmp_path / 'plan.json'}",
        f"--patch={manifest}",
        f"--windows={tmp_path / 'windows.parquet'}",
        "--repetitions=1",
        "--top-k=10",
    ]


@pytest.mark.slow
def test_distillation(tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "peak_memory_of", lambda *_: 1)
    arguments = distillation._parser().parse_args(given)
    arguments.teacher = distillation.store_targets(arguments, tmp_path)
    result = distillation.measured(arguments, given)
    assert result["settings"]["gap"] == [2, 4]
    assert set(result["tokens_per_second"]) == set(distillation.NAMES)
    assert result["bare_forwards"]["bare forward"] == 1.0
    # Layers 4 and 5 of 6, forward and twice backward at most, and little beside them.
    bounds = result["arithmetic_bound_bare_forwards"]
    assert 2 * 2 / 6 < bounds[distillation.OFFLINE_EPOCH] < 3 * 2 / 6 + 0.2
    assert bounds[distillation.FUSED] - bounds[distillation.OFFLINE_EPOCH] > 1


@pytest.mark.slow
def test_all_procedures_of_distillation_have_the_same_loss(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = distillation._parser().parse_args([*given, "--count=1"])
    arguments.teacher = distillation.store_targets(arguments, tmp_path)
    bench = distillation.Bench(arguments)
    losses: dict[str, float] = {}
    backward = distillation.torch.Tensor.backward
    for name in distillation.NAMES[1:]:
        run = bench.contender(name)

        def keep(loss: distillation.torch.Tensor, name: str = name) -> None:
            losses[name] = loss.item()
            backward(loss)

        monkeypatch.setattr(distillation.torch.Tensor, "backward", keep)
        run()
    assert set(losses) == set(distillation.NAMES[1:])
    # The official procedure keeps probabilities as float16.
    for name, loss in losses.items():
        assert loss == pytest.approx(losses[distillation.FUSED], rel=5e-3), name
    assert losses[distillation.FUSED] > 0.001


def result_of(benchmark: ModuleType, given: list[str]) -> dict[str, Any]:
    parser = ArgumentParser()
    benchmark.add_arguments(parser)
    result: dict[str, Any] = benchmark.measured(parser.parse_args(given))
    return result


def values_of(result: dict[str, Any]) -> dict[str, float]:
    return {figure["name"]: figure["value"] for figure in result["figures"]}


@pytest.fixture
def on_model(given: list[str]) -> list[str]:
    """The options that say on which model to measure."""
    return [word for word in given if word.startswith(("--model", "--compute", "--repetitions"))]


@pytest.fixture
def on_windows(given: list[str], on_model: list[str]) -> list[str]:
    """The options that say on which model and windows to measure."""
    return [*on_model, *(word for word in given if word.startswith("--windows"))]


def test_calibration(on_windows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {
        calibration.BARE: 1_000_000,
        calibration.OURS: 3_000_000,
        calibration.MORE_WINDOWS: 3_500_000,
        calibration.OFFICIAL: 9_000_000,
    }
    monkeypatch.setattr(calibration, "peak_memory_of", lambda *words: memory[words[-1]])
    result = result_of(calibration, [*on_windows, "--count=3"])
    assert result["settings"]["windows"] == 1
    assert set(result["seconds"]) == {
        calibration.BARE,
        calibration.OURS,
        calibration.STEP,
        calibration.OFFICIAL,
        calibration.GRID,
        calibration.MORE_WINDOWS,
        calibration.FEWER_LAYERS,
    }
    values = values_of(result)
    assert values["additional memory over the bare forward"] == 2.0
    assert values["more memory for 3 times as many windows"] == 0.5
    assert values["additional memory of the released code"] == 8.0
    limits = [figure.get("at_most") for figure in result["figures"]]
    # Two bases of six layers with 48 channels, and seven boundaries of 12 tokens.
    assert limits[7] == (3 * 6 * 48 * 8 * 2 + 7 * 12 * 48 * 4) / 1e6


def test_the_released_procedure_finds_what_calibration_finds(tiny_llama: Any) -> None:
    windows = WINDOWS[:3]
    samples = list(stream_statistics(tiny_llama, windows, basis_matrix(48)))
    scores = official_scores(tiny_llama, windows, 2)
    expected = [
        np.mean([s.token_axis_cosine[start, start + 2] for s in samples]) for start in range(4)
    ]
    np.testing.assert_allclose(scores[1:], expected[1:], atol=1e-5)
    assert scores[0] == 0.0
    for rotated, basis in ((True, "hadamard"), (False, "identity")):
        scales = official_scales(tiny_llama, windows, 2, 4, rotated=rotated)
        ratios = [s.mean_absolute[basis][4] / s.mean_absolute[basis][2] for s in samples]
        np.testing.assert_allclose(scales.numpy(), np.mean(ratios, axis=0), rtol=1e-4)


def test_fewer_layers_leave_the_model_alone(tiny_llama: Any) -> None:
    inputs = Inputs(tiny_llama, WINDOWS[:1])
    assert calibration.with_fewer_layers(inputs).settings["layers"] == 2
    assert inputs.settings["layers"] == 6


def test_the_number_type_can_be_another_than_the_machines(
    on_windows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "peak_memory_of", lambda *_: 1)
    result = result_of(perplexity, [*on_windows, "--dtype=bfloat16"])
    assert result["settings"]["dtype"] == "bfloat16"
    assert measure.result_name("perplexity", Namespace(dtype="bfloat16")) == "perplexity-bfloat16"
    assert measure.result_name("perplexity", Namespace(dtype=None)) == "perplexity"
    assert measure.result_name("pipeline", Namespace()) == "pipeline"


def test_perplexity(on_windows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "peak_memory_of", lambda *_: 1)
    result = result_of(perplexity, on_windows)
    assert set(result["seconds"]) == {perplexity.FORWARD, perplexity.OURS}
    assert result["figures"][0]["at_most"] == 1.1


@pytest.fixture
def on_questions(tmp_path: Path, on_model: list[str], tiny_model: Any) -> list[str]:
    """A model with a tokenizer, and the data of one benchmark."""
    folder = tmp_path / "reader"
    tiny_model("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    questions = [
        {"goal": f"open box {i}", "sol1": "use a key", "sol2": "hit it", "label": i % 2}
        for i in range(4)
    ]
    (tmp_path / "data/piqa").mkdir(parents=True)
    write_parquet(tmp_path / "data/piqa/validation.parquet", pa.Table.from_pylist(questions))
    for place in (folder, tmp_path / "data/piqa"):
        names = [path.name for path in place.iterdir()]
        write_json(place / "manifest.json", file_manifest(place, names))
    return [
        *on_model,
        f"--model={folder / 'manifest.json'}",
        f"--data={tmp_path / 'data'}",
        "--benchmarks",
        "piqa",
    ]


def test_question_answering(on_questions: list[str]) -> None:
    result = result_of(question_answering, [*on_questions, "--limit=3"])
    assert result["settings"]["documents"] == 3
    assert values_of(result)["documents with another outcome"] == 0
    # A benchmark with shots is not what the harness is called plainly for.
    with pytest.raises(LpstepsError, match="mmlu_stem: must be scored through lm-eval without"):
        result_of(question_answering, [*on_questions[:-1], "mmlu_stem"])


def test_least_squares(given: list[str], on_windows: list[str]) -> None:
    plan = [word for word in given if word.startswith("--plan")]
    result = result_of(least_squares, [*on_windows, *plan])
    assert result["settings"]["gaps"] == [[2, 4]]
    assert len(result["seconds"]) == 4


def test_hadamard() -> None:
    result = result_of(hadamard, ["--sizes", "48", "64", "--rows=3", "--repetitions=1"])
    assert list(result["settings"]["bases"]) == ["48", "64"]
    assert [figure["at_least"] for figure in result["figures"]] == [1.0, 1.0]


def test_patch_application(on_model: list[str]) -> None:
    result = result_of(patch_application, [*on_model, "--repetitions=2", "--length=16"])
    assert len(result["figures"]) == 6
    assert set(result["seconds"]) >= {"patch, prefill", "patch, decode", "ffn, decode"}


def test_a_program_that_fails_says_so_itself(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        measure.peak_memory_of("json.tool", "nowhere.json")

    assert measure.exit_status("perplexity", work) == 1
    error = capfd.readouterr().err
    assert "No such file or directory: 'nowhere.json'" in error
    assert error.splitlines()[-1].startswith(
        "error: perplexity: python -m json.tool nowhere.json: ended with status "
    )


def write_record(folder: Path, start: str, seconds: float) -> None:
    record = {"started": f"2026-01-01T00:00:{start}+00:00", "duration_seconds": seconds}
    write_json(folder / f"{start}.json.record.json", record)


def test_seconds_in_which_no_step_works(tmp_path: Path) -> None:
    write_record(tmp_path, "00", 4.0)
    write_record(tmp_path, "02", 1.0)
    write_record(tmp_path, "10", 2.0)
    intervals = pipeline.work_intervals([tmp_path])
    assert pipeline.length_of_union(intervals) == 6.0
    assert intervals[-1].end - intervals[0].start == 12.0
    with pytest.raises(LpstepsError, match="has not been built here"):
        pipeline.work_intervals([tmp_path / "elsewhere"])


def test_seconds_of_jobs(tmp_path: Path) -> None:
    (tmp_path / "calibrate").mkdir()
    (tmp_path / "calibrate/a.tsv").write_text("s\th:m:s\n1.5\t0:00:01\n")
    (tmp_path / "b.tsv").write_text("s\th:m:s\n2.5\t0:00:02\n")
    assert sorted(pipeline.seconds_of_jobs(tmp_path)) == [1.5, 2.5]


@pytest.mark.slow
def test_dry_runs_have_about_as_many_jobs_as_asked_for(tmp_path: Path) -> None:
    found = pipeline.dry_run_seconds(tmp_path, [30], 1)
    ((jobs, seconds),) = found.items()
    assert 30 <= jobs <= 60
    assert set(seconds) == {"ours", "bare"}


@pytest.mark.parametrize("jobs", pipeline.SIZES)
def test_a_wide_profile_is_as_wide_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    pipeline.write_wide_project(tmp_path, jobs)
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("profile.yaml"))
    # A choice of layers for each plan, a patch and a score for each variant.
    found = len(plan_folders(config)) + 2 * len(variants(config))
    assert jobs <= found < 1.35 * jobs
