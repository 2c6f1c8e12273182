"""The measure_token_scales step, run as a program, against all activations in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lpsteps.artifacts import read_json, write_json, write_parquet
from lpsteps.hadamard import basis_matrix
from lpsteps.plan import Plan, write_plan
from lpsteps.provenance import read_record
from lpsteps.steps.measure_token_scales import main
from lpsteps.token_scales import read_token_scales

WINDOWS = np.random.default_rng(0).integers(3, 128, (5, 12))
EPSILON = 0.02  # high enough that it acts on some of the ratios


def arguments(folder: Path, model: Path, *removed: int) -> list[str]:
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    table = pa.table({"window": range(len(WINDOWS)), "token_ids": token_ids})
    write_parquet(folder / "windows.parquet", table)
    write_json(folder / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    write_plan(folder / "plan.json", Plan.removing(6, removed), model="tiny", selection="window")
    return [
        f"--model={model}",
        f"--windows={folder / 'windows.parquet'}",
        f"--compute={folder / 'compute.json'}",
        f"--plan={folder / 'plan.json'}",
        f"--scales={folder / 'token_scales.parquet'}",
        f"--log={folder / 'log.txt'}",
    ]


def streams(model: Any, windows: np.ndarray, start: int, end: int) -> list[np.ndarray]:
    """Both streams of a cut inside the model, float64 [windows, tokens, channels]."""
    hidden = model(torch.tensor(windows), output_hidden_states=True).hidden_states
    return [hidden[boundary].double().numpy() for boundary in (start, end)]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("skipped", [0, 3])
def test_ratios_of_all_tokens_and_channels(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_model_folder: Callable[..., Path],
    family: str,
    skipped: int,
) -> None:
    command = arguments(tmp_path, tiny_model_folder(family), 3, 2)
    spec = {"windows": 4, "exclude_first": skipped, "epsilon": EPSILON}
    assert main([*command, "--spec", json.dumps(spec)]) == 0
    found = read_token_scales(tmp_path / "token_scales.parquet")
    assert (found.start, found.end, found.epsilon) == (2, 4, EPSILON)
    assert (found.windows, found.tokens) == (4, 4 * (12 - skipped))
    hadamard = basis_matrix(48).matrix
    both = streams(tiny_model(family), WINDOWS[:4], 2, 4)
    for name, turned in (("identity", both), ("hadamard", [x @ hadamard for x in both])):
        source, target = (np.abs(x) for x in turned)
        floor = EPSILON * source.mean(axis=2, keepdims=True)
        assert (source < floor).any()
        ratios = (target / np.where(source < floor, floor, source))[:, skipped:]
        scales = found.bases[name]
        parts = {"all": ratios, "others": ratios[:, 1:], "first": ratios[:, :1]}
        if skipped:
            parts = {"all": ratios, "others": ratios, "first": ratios[:0]}
        for kind, expected in parts.items():
            summary = getattr(scales, kind)
            assert summary.count == expected.size
            if expected.size:
                assert summary.mean == pytest.approx(expected.mean(), rel=2e-4)
                assert summary.sigma == pytest.approx(expected.std(), rel=2e-4)
                assert summary.largest == pytest.approx(expected.max(), rel=2e-4)
    notes = read_record(tmp_path / "token_scales.parquet")["notes"]
    assert notes["sigma_d, identity"] == found.bases["identity"].all.sigma


def test_a_second_run_gives_the_same_bytes(
    tmp_path: Path, tiny_model_folder: Callable[..., Path]
) -> None:
    command = arguments(tmp_path, tiny_model_folder("llama"), 5, 4)
    contents = []
    for _ in range(2):
        assert main([*command, "--spec", '{"windows": 2}']) == 0
        contents.append((tmp_path / "token_scales.parquet").read_bytes())
        (tmp_path / "token_scales.parquet").unlink()
    assert contents[0] == contents[1]
    record = read_json(tmp_path / "token_scales.parquet.record.json")
    assert record["spec"] == {"windows": 2}


@pytest.mark.parametrize(
    ("removed", "spec", "message"),
    [
        ((1, 3), '{"windows": 2}', "2 gaps: token-wise scalings are those of one window of layers"),
        ((1,), '{"windows": 2, "exclude_first": 12}', "exclude_first: 12: must lie in 0 to 11"),
        ((1,), '{"windows": 9}', "has 5 windows, but windows: 9 are asked for"),
        ((1,), '{"windows": 2, "epsilon": 0}', "--spec: epsilon: 0: "),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    tiny_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    removed: tuple[int, ...],
    spec: str,
    message: str,
) -> None:
    command = arguments(tmp_path, tiny_model_folder("llama"), *removed)
    assert main([*command, "--spec", spec]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and not any("Traceback" in line for line in error)
    assert not list(tmp_path.glob("*token_scales*"))
