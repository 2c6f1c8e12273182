"""The prune_width step, run as a program, and the evaluation of what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lpsteps.artifacts import read_json, write_json, write_parquet
from lpsteps.evaluation.benchmark import load_benchmark
from lpsteps.evaluation.perplexity import perplexity, window_losses
from lpsteps.models.width import apply_width
from lpsteps.plan import Plan, write_plan
from lpsteps.provenance import read_record
from lpsteps.steps import evaluate_perplexity
from lpsteps.steps.prune_width import main
from lpsteps.width import llm_pruner
from lpsteps.width_pruning import parameters_removed, read_width

pytest.importorskip("torch_pruning")

WINDOWS = np.random.default_rng(0).integers(3, 128, (4, 16))
PARAMS = {"windows": 3, "length": 12, "exempt_first": 1, "exempt_last": 1}


@pytest.fixture
def inputs(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(windows, pa.table({"token_ids": token_ids}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    return [f"--model={tiny_model_folder('llama')}", f"--compute={compute}"]


def prune(folder: Path, inputs: list[str], tensors: str = "width", **spec: Any) -> int:
    complete = {"width": "mine", "method": "llm_pruner", "n": 2, "params": PARAMS} | spec
    return main(
        [
            *inputs,
            f"--windows={folder / 'windows.parquet'}",
            f"--tensors={folder / tensors}.safetensors",
            f"--manifest={folder / 'width.manifest.json'}",
            f"--log={folder / 'log.txt'}",
            f"--spec={json.dumps(complete)}",
        ]
    )


def evaluate(folder: Path, inputs: list[str], *options: str) -> int:
    suite = {"novels": load_benchmark("novels").scoring()}
    spec = {"model": "m", "variant": "v", "batch_tokens": 64, "benchmarks": suite}
    return evaluate_perplexity.main(
        [
            *inputs,
            *options,
            f"--windows=novels={folder / 'windows.parquet'}",
            f"--score=novels={folder / 'novels.json'}",
            f"--log={folder / 'log.txt'}",
            f"--spec={json.dumps(spec)}",
        ]
    )


def test_the_scored_model_is_the_pruned_one(
    tmp_path: Path, inputs: list[str], tiny_model: Callable[..., Any]
) -> None:
    assert prune(tmp_path, inputs) == 0
    manifest = tmp_path / "width.manifest.json"
    model = tiny_model("llama")
    pruning = llm_pruner.prune_model(model, WINDOWS, 2, llm_pruner.Params(**PARAMS))
    found = read_width(manifest)
    assert (found.layers, found.shapes) == (pruning.layers, pruning.shapes)
    notes = read_record(manifest)["notes"]
    assert notes["parameters_removed"] == parameters_removed(pruning.shapes)
    assert (notes["dtype"], notes["device"]) == ("float32", "cpu")

    assert evaluate(tmp_path, inputs, f"--width-manifest={manifest}") == 0
    dense = perplexity(window_losses(model, WINDOWS, batch=4)).value
    apply_width(model, pruning)
    expected = perplexity(window_losses(model, WINDOWS, batch=4)).value
    value = read_json(tmp_path / "novels.json")["value"]
    assert value == pytest.approx(expected, rel=1e-6)
    assert value != pytest.approx(dense, rel=1e-3)
    read = {Path(entry["path"]).name for entry in read_record(tmp_path / "novels.json")["inputs"]}
    assert {"width.manifest.json", "width.safetensors"} <= read


def test_second_run_gives_the_same_bytes(tmp_path: Path, inputs: list[str]) -> None:
    contents = []
    for _ in range(2):
        assert prune(tmp_path, inputs) == 0
        names = ("width.safetensors", "width.manifest.json")
        contents.append([(tmp_path / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_scoring_refuses_a_damaged_pruning(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(tmp_path, inputs) == 0
    manifest, tensors = tmp_path / "width.manifest.json", tmp_path / "width.safetensors"
    write_plan(tmp_path / "plan.json", Plan.removing(6, (3,)), model="m", selection="s")
    options = [f"--width-manifest={manifest}", f"--plan={tmp_path / 'plan.json'}"]
    assert evaluate(tmp_path, inputs, *options) == 1
    assert "a variant has this or --plan, not both" in capsys.readouterr().err
    content = bytearray(tensors.read_bytes())
    content[-4] ^= 1
    tensors.write_bytes(content)
    assert evaluate(tmp_path, inputs, options[0]) == 1
    assert "width.safetensors: was changed after prune_width wrote it" in capsys.readouterr().err
    assert not (tmp_path / "novels.json").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"method": "llm_prunner"}, "did you mean 'llm_pruner'"),
        ({"params": {**PARAMS, "exempt": 1}}, "mine: params: exempt: unknown key"),
        ({"n": 0}, "--spec: n: 0: "),
        ({"n": 4}, "n: 4: of 6 layers 4 may be pruned, which leaves no room for 4"),
        ({"windows": 2}, "windows: 3 x 12 tokens: the calibration text has 2 x 16"),
        ({"exclude_first": 3}, "exclude_first: 3: this method counts every token"),
        ({"tensors": "other"}, "width.safetensors, beside its manifest"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    inputs: list[str],
    capsys: pytest.CaptureFixture[str],
    spec: dict[str, Any],
    message: str,
) -> None:
    assert prune(tmp_path, inputs, **spec) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.safetensors"))
