"""Whole steps show how far they are on a terminal, and write nothing to a file or a pipe."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from terminal import Terminal

from lpsteps.artifacts import write_json, write_parquet
from lpsteps.steps import calibrate, fetch_archive

Run = Callable[[], int]


@pytest.fixture
def calibration(tiny_model_folder: Any, tmp_path: Path) -> Run:
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    token_ids = np.random.default_rng(0).integers(2, 128, (3, 16)).tolist()
    table = {"window": range(3), "token_ids": pa.array(token_ids, pa.list_(pa.int32()))}
    write_parquet(windows, pa.table(table))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    arguments = ["--model", str(tiny_model_folder("llama")), "--windows", str(windows)]
    arguments += ["--compute", str(compute), "--stats", str(tmp_path / "stats.parquet")]
    return lambda: calibrate.main([*arguments, "--spec", '{"windows": 3}'])


@pytest.fixture
def unpacking(tmp_path: Path) -> Run:
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/data.bin", b"the data")
    spec = {
        "package": "tiny",
        "version": "1",
        "filename": wheel.name,
        "local": str(wheel),
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "members": ["tiny/*"],
        "member_sha256": {},
    }
    manifest = tmp_path / "archives/tiny/manifest.json"
    arguments = ["--manifest", str(manifest), "--spec", json.dumps(spec)]
    return lambda: fetch_archive.main(arguments)


SHOWN = {"calibration": ("calibrate", "3/3"), "unpacking": ("unpacking tiny-1", "8/8 bytes")}


@pytest.mark.parametrize("step", SHOWN)
def test_a_step_shows_progress_on_a_terminal(step: str, request: pytest.FixtureRequest):
    run = request.getfixturevalue(step)
    with Terminal() as terminal:
        assert run() == 0
    assert all(part in terminal.text for part in SHOWN[step]), terminal.text


@pytest.mark.parametrize("step", SHOWN)
def test_a_step_is_silent_elsewhere(
    step: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
):
    run = request.getfixturevalue(step)
    capfd.readouterr()  # what making the inputs printed
    assert run() == 0
    assert capfd.readouterr() == ("", "")
