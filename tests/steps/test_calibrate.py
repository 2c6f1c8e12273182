"""The calibrate step, run as a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lpsteps.artifacts import read_json, write_json, write_parquet
from lpsteps.calibration import stream_statistics
from lpsteps.hadamard import basis_matrix
from lpsteps.models.loading import load_model
from lpsteps.statistics import Statistics
from lpsteps.steps.calibrate import main

WINDOWS = np.random.default_rng(0).integers(2, 128, (5, 24))


@pytest.fixture
def arguments(tiny_model_folder: Any, tmp_path: Path) -> list[str]:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(windows, pa.table({"window": range(len(WINDOWS)), "token_ids": token_ids}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    return [
        f"--model={tiny_model_folder('llama')}",
        f"--windows={windows}",
        f"--compute={compute}",
        f"--stats={tmp_path / 'stats.parquet'}",
        f"--log={tmp_path / 'log.txt'}",
    ]


def test_statistics_of_the_first_windows(arguments: list[str], tmp_path: Path) -> None:
    spec = '{"windows": 3, "exclude_first": 2, "batch": 2, "basis": "hadamard"}'
    assert main([*arguments, "--spec", spec]) == 0
    statistics = Statistics.read(tmp_path / "stats.parquet")
    assert (len(statistics.pairs), statistics.n_layers, statistics.hidden_size) == (3, 6, 48)
    assert statistics.model == "llama"
    assert statistics.basis_name == "paley-i-12 (x) sylvester-4"
    assert statistics.tokens.tolist() == [22, 22, 22]
    model = load_model(tmp_path / "models" / "llama", torch.float32, device=torch.device("cpu"))
    samples = stream_statistics(model, WINDOWS[:3], basis_matrix(48), exclude_first=2)
    for number, sample in enumerate(samples):
        np.testing.assert_allclose(statistics.pairs[number], sample.cosine, atol=1e-6)
        np.testing.assert_allclose(
            statistics.last_token_pairs[number], sample.last_token_cosine, atol=1e-6
        )
        np.testing.assert_allclose(
            statistics.token_axis_pairs[number], sample.token_axis_cosine, atol=1e-6
        )
        np.testing.assert_allclose(
            statistics.means["hadamard"][number], sample.mean_absolute["hadamard"], rtol=1e-5
        )
    notes = read_json(tmp_path / "stats.parquet.record.json")["notes"]
    assert notes["basis"] == "paley-i-12 (x) sylvester-4"
    assert notes["flatness"] == pytest.approx(1.0)
    assert (notes["tokens"], notes["dtype"]) == (66, "float32")


def test_second_run_gives_the_same_bytes(arguments: list[str], tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        assert main([*arguments, "--spec", '{"windows": 5}']) == 0
        contents.append((tmp_path / "stats.parquet").read_bytes())
        (tmp_path / "stats.parquet").unlink()
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ('{"windows": 6}', "has 5 windows, but windows: 6 are asked for"),
        ('{"windows": 0}', "--spec: windows: 0: "),
        ('{"windows": 2, "basis": "dct"}', "--spec: basis: 'dct': "),
        ('{"windows": 2, "exclude_first": 24}', "exclude_first: 24: must lie in 0 to 23"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spec: str,
    message: str,
) -> None:
    assert main([*arguments, "--spec", spec]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not any("Traceback" in line for line in error)
    assert not list(tmp_path.glob("*stats.parquet*"))


def test_changed_model_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "models" / "llama" / "config.json"
    config.write_text(config.read_text() + " ")
    assert main([*arguments, "--spec", '{"windows": 2}']) == 1
    assert "config.json: sha256 is" in capsys.readouterr().err
