"""The measure_moments step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lpsteps.artifacts import write_json, write_parquet
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.gap_moments import gap_moments
from lpsteps.moments import read_moments
from lpsteps.plan import Plan, write_plan
from lpsteps.provenance import read_record
from lpsteps.steps.measure_moments import main

WINDOWS = np.random.default_rng(0).integers(3, 128, (10, 12))


@pytest.fixture
def inputs(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(
        tmp_path / "windows.parquet",
        pa.table({"window": range(len(WINDOWS)), "token_ids": token_ids}),
    )
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    write_plan(tmp_path / "plan.json", Plan.removing(6, (4, 1, 5)), model="tiny", selection="sleb")
    return [
        f"--model={tiny_model_folder('llama')}",
        f"--windows={tmp_path / 'windows.parquet'}",
        f"--compute={tmp_path / 'compute.json'}",
        f"--plan={tmp_path / 'plan.json'}",
        f"--log={tmp_path / 'log.txt'}",
    ]


def run(tmp_path: Path, inputs: list[str], *arguments: str, **spec: Any) -> int:
    spec = {"kind": "stream", "windows": 9} | spec
    return main(
        [
            *inputs,
            f"--moments={tmp_path / 'moments' / spec['kind']}.safetensors",
            f"--manifest={tmp_path / 'moments' / spec['kind']}.manifest.json",
            f"--spec={json.dumps(spec)}",
            *arguments,
        ]
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stream", {}),
        ("weighted-stream", {"weighting": "inverse_norm"}),
        ("branch", {"branch": True}),
    ],
)
def test_kinds(
    tmp_path: Path, inputs: list[str], tiny_llama: Any, kind: Any, options: dict[str, Any]
) -> None:
    assert run(tmp_path, inputs, kind=kind, exclude_first=2, batch=3) == 0
    found = read_moments(tmp_path / "moments" / f"{kind}.manifest.json", kind)
    use_causal_attention(tiny_llama)
    expected = gap_moments(
        tiny_llama, WINDOWS[:9], [(1, 2), (4, 6)], exclude_first=2, batch=3, **options
    )
    assert len(found) == len(expected)
    for gap, same in zip(found, expected, strict=True):
        assert type(gap) is type(same)
        assert (gap.start, gap.end) == (same.start, same.end)
        assert (gap.fit.weight, gap.heldout.weight) == (same.fit.weight, same.heldout.weight)
        np.testing.assert_array_equal(gap.fit.source_target, same.fit.source_target)
        np.testing.assert_array_equal(gap.heldout.source_source, same.heldout.source_source)


def test_both_files_have_a_record(tmp_path: Path, inputs: list[str]) -> None:
    assert run(tmp_path, inputs) == 0
    for name in ("stream.safetensors", "stream.manifest.json"):
        record = read_record(tmp_path / "moments" / name)
        assert {Path(entry["path"]).name for entry in record["outputs"]} == {
            "stream.safetensors",
            "stream.manifest.json",
        }
        assert record["notes"] == {"dtype": "float32", "device": "cpu", "threads": 1}
        read = {Path(entry["path"]).name for entry in record["inputs"]}
        assert read >= {"windows.parquet", "compute.json", "plan.json", "model.safetensors"}


def test_second_run_gives_the_same_bytes(tmp_path: Path, inputs: list[str]) -> None:
    contents = []
    for _ in range(2):
        assert run(tmp_path, inputs, kind="branch") == 0
        folder = tmp_path / "moments"
        contents.append(
            [(folder / f"branch.{end}").read_bytes() for end in ("safetensors", "manifest.json")]
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "steam"}, "kind: 'steam': "),
        ({"windows": 11}, "has 10 windows, but windows: 11 are asked for"),
        ({"windows": 1}, "windows: 1: "),
        ({"window": 4}, "window: unknown key, did you mean 'windows'"),
        ({"exclude_first": 12}, "exclude_first: 12: must lie in 0 to 11"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    inputs: list[str],
    capsys: pytest.CaptureFixture[str],
    spec: dict[str, Any],
    message: str,
) -> None:
    assert run(tmp_path, inputs, **spec) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "moments").glob("*"))


def test_a_plan_of_another_model(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path / "plan.json", Plan.removing(9, (4,)), model="other", selection="sleb")
    assert run(tmp_path, inputs) == 1
    assert "plan.json: n_layers: 9: the model has 6 decoder layers" in capsys.readouterr().err


def test_a_gap_without_an_mlp_in_front(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path / "plan.json", Plan.removing(6, (0,)), model="tiny", selection="sleb")
    assert run(tmp_path, inputs) == 0
    assert run(tmp_path, inputs, kind="branch") == 1
    assert "layer 0 is removed: no MLP is left" in capsys.readouterr().err


def test_tensors_lie_beside_their_manifest(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"--moments={tmp_path / 'moments' / 'other.safetensors'}"
    assert run(tmp_path, inputs, elsewhere) == 1
    assert "stream.safetensors, beside its manifest" in capsys.readouterr().err
