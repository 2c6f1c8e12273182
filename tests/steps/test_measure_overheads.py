"""The measure_overheads step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from report_example import ROOT, SMALL

from lpsteps.artifacts import read_json, sha256_file, write_json
from lpsteps.distillation.teacher_store import StoreFacts
from lpsteps.overheads.measurements import Overheads
from lpsteps.provenance import Lineage, read_record
from lpsteps.report.tables import derive_tables
from lpsteps.steps.measure_overheads import main

HIDDEN, INNER, VOCABULARY = 48, 80, 128


@pytest.fixture
def inputs(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    return [
        f"--model={tiny_model_folder('llama', layers=3)}",
        f"--compute={tmp_path / 'compute.json'}",
        f"--overheads={tmp_path / 'overheads.json'}",
        f"--log={tmp_path / 'log.txt'}",
    ]


def run(inputs: list[str], *arguments: str, **spec: Any) -> int:
    spec = {"batch": 2, "length": 16, "repetitions": 6, "seconds": 5.0, "tokens": 640} | spec
    return main([*inputs, *arguments, f"--spec={json.dumps(spec)}"])


def test_everything_is_counted_and_timed(tmp_path: Path, inputs: list[str]) -> None:
    assert run(inputs) == 0
    found = Overheads.model_validate(read_json(tmp_path / "overheads.json"))
    assert {name: facts.parameters for name, facts in found.operations.items()} == {
        "patch": HIDDEN**2,
        "patch-rotated": HIDDEN,
        "ffn": 3 * HIDDEN * INNER,
        "layer": 2 * HIDDEN**2 + 2 * HIDDEN * 24 + 3 * HIDDEN * INNER + 2 * HIDDEN,
    }
    for facts in found.operations.values():
        for spread in (facts.prefill_ms, facts.decode_ms):
            assert 0 < spread.low <= spread.median <= spread.high
    conditions = found.conditions
    assert (conditions.device, conditions.dtype, conditions.threads) == ("cpu", "float32", 1)
    assert (conditions.batch, conditions.length, conditions.layer) == (2, 16, 1)
    assert conditions.repetitions == {"prefill": 6, "decode": 6}
    assert conditions.libraries.keys() == {"torch", "transformers"}
    assert conditions.machine["processor"]
    storage = found.storage
    assert storage["targets"].bytes == 500 * 640
    assert storage["hidden-states"].bytes_per_token == 2 * HIDDEN
    assert storage["full-vocabulary"].bytes_per_token == 2 * VOCABULARY
    assert "store" not in storage


def test_the_record_speaks_for_the_file(tmp_path: Path, inputs: list[str]) -> None:
    assert run(inputs, seed=5) == 0
    record = read_record(tmp_path / "overheads.json")
    (output,) = record["outputs"]
    assert output["sha256"] == sha256_file(tmp_path / "overheads.json")
    assert {"compute.json", "manifest.json", "model.safetensors"} <= {
        Path(entry["path"]).name for entry in record["inputs"]
    }
    assert record["notes"] == {"dtype": "float32", "device": "cpu", "threads": 1, "seed": 5}


def test_a_store_of_targets_counts_as_it_lies_on_disk(tmp_path: Path, inputs: list[str]) -> None:
    facts = StoreFacts(
        model_sha256="0" * 64,
        tokens_sha256="1" * 64,
        windows=4,
        length=8,
        hidden_size=HIDDEN,
        top_k=5,
        vocabulary=VOCABULARY,
        dtype="float32",
        branch=1,
        hidden=False,
    )
    files = {name: {"sha256": "2" * 64, "bytes": 1_000} for name in facts.shards}
    manifest = tmp_path / "store" / "manifest.json"
    manifest.parent.mkdir()
    write_json(manifest, {**facts.model_dump(by_alias=True), "files": files})
    assert run(inputs, f"--store={manifest}") == 0
    store = Overheads.model_validate(read_json(tmp_path / "overheads.json")).storage["store"]
    assert (store.bytes, store.bytes_per_token) == (1_000, 1_000 / 32)
    record = read_record(tmp_path / "overheads.json")
    assert str(manifest) in {entry["path"] for entry in record["inputs"]}


def test_tables_are_derived_from_the_file_as_long_as_its_record_holds(
    tmp_path: Path,
    inputs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"results/{SMALL}/overheads.json")
    relative = [
        argument.replace(f"{tmp_path}/", "") for argument in inputs if "over" not in argument
    ]
    assert run([*relative, f"--overheads={path}"]) == 0
    spec = example.spec({SMALL: []}) | {"variants": {}, "plans": {}}
    spec |= {"tables": {"overheads": {SMALL: []}}}
    files = [path, ROOT / "reports/tables/overheads.yaml"]
    payload = derive_tables(spec, files, Lineage())
    assert {cell["status"] for cell in payload["cells"]} == {"measured"}
    assert payload["artifacts"][str(path)]["rule"] == "measure_overheads"
    path.write_text(path.read_text() + "\n")
    (reason,) = {cell["reason"] for cell in derive_tables(spec, files, Lineage())["cells"]}
    assert reason == f"{path}: was changed after measure_overheads wrote it"


@pytest.mark.parametrize(("window_length", "length"), [(20, 20), (128, 127), (2048, 127)])
def test_windows_are_as_long_as_the_model_takes(
    tmp_path: Path, inputs: list[str], window_length: int, length: int
) -> None:
    """One token is decoded behind them, and the model takes 128."""
    assert run(inputs, length=None, window_length=window_length, repetitions=2, seconds=0.1) == 0
    found = Overheads.model_validate(read_json(tmp_path / "overheads.json"))
    assert found.conditions.length == length


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"repetitions": 1}, "repetitions: 1: "),
        ({"batches": 4}, "batches: unknown key, did you mean 'batch'"),
        ({"length": 128}, "length: 128: must be less than the 128 tokens of the model"),
        ({"seconds": 0}, "seconds: 0: "),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    inputs: list[str],
    capsys: pytest.CaptureFixture[str],
    spec: dict[str, Any],
    message: str,
) -> None:
    assert run(inputs, **spec) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "overheads.json").exists()
