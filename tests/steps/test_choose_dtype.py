"""The choose_dtype step, run as a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lpsteps.artifacts import read_json
from lpsteps.steps import choose_dtype
from lpsteps.steps.choose_dtype import choose, main, measure_speedup


@pytest.fixture
def compute(tmp_path: Path) -> Path:
    return tmp_path / "machine" / "compute.json"


def run(manifest: Path, compute: Path, spec: str) -> int:
    return main([f"--model={manifest}", f"--compute={compute}", f"--spec={spec}"])


@pytest.mark.parametrize(
    ("speedup", "dtype"), [(0.4, "float32"), (1.29, "float32"), (1.3, "bfloat16")]
)
def test_bfloat16_must_be_clearly_faster(
    tiny_model_folder: Any,
    compute: Path,
    monkeypatch: pytest.MonkeyPatch,
    speedup: float,
    dtype: str,
) -> None:
    sizes: list[tuple[int, int]] = []

    def measure(hidden_size: int, intermediate_size: int, device: torch.device) -> float:
        sizes.append((hidden_size, intermediate_size))
        return speedup

    monkeypatch.setattr(choose_dtype, "measure_speedup", measure)
    assert run(tiny_model_folder("llama"), compute, '{"dtype": "auto"}') == 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert read_json(compute) == {"schema": 1, "dtype": dtype, "device": device}
    assert sizes == [(48, 80)]
    record = read_json(compute.with_name("compute.json.record.json"))
    assert record["notes"]["bfloat16_speedup"] == speedup


def test_intermediate_size_of_opt(
    tiny_model_folder: Any, compute: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        choose_dtype, "measure_speedup", lambda hidden, inner, device: sizes.append(inner) or 1.0
    )
    assert run(tiny_model_folder("opt"), compute, "{}") == 0
    assert sizes == [80]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_explicit_choice_is_not_measured(
    tiny_model_folder: Any, compute: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.delattr(choose_dtype, "measure_speedup")
    assert run(tiny_model_folder("llama"), compute, f'{{"dtype": "{dtype}"}}') == 0
    assert read_json(compute)["dtype"] == dtype


def test_unknown_dtype_is_named(
    tiny_model_folder: Any, compute: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model_folder("llama"), compute, '{"dtype": "float16"}') == 1
    assert "dtype: 'float16': must be 'auto', 'float32' or 'bfloat16'" in capsys.readouterr().err
    assert not compute.exists()


def test_a_mistyped_setting_is_not_passed_over(
    tiny_model_folder: Any, compute: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model_folder("llama"), compute, '{"dtpye": "float32"}') == 1
    assert "--spec: dtpye: unknown key, did you mean 'dtype'?" in capsys.readouterr().err
    assert not compute.exists()


def test_measured_speedup_is_a_ratio_of_times() -> None:
    assert 0.001 < measure_speedup(64, 128, torch.device("cpu")) < 1000


def test_threshold() -> None:
    assert choose(choose_dtype.REQUIRED_SPEEDUP) == "bfloat16"
    assert choose(choose_dtype.REQUIRED_SPEEDUP - 0.01) == "float32"
