"""How benchmarks take turns and measure memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.calibration import most_time

# A program that frees what it has loaded, and keeps a state from the first run on.
CONTENDER = """
import sys
import numpy as np
from benchmarks.measure import print_peak_memory

loaded = [np.ones(1 << 16) for _ in range(400)] + [np.ones(25_000_000)]
del loaded
kept = []


def run():
    if not kept:
        kept.append(np.ones(int(sys.argv[1]) // 16))
    np.ones(int(sys.argv[1]) // 16)


print_peak_memory(run)
"""


def test_every_round_starts_with_another_contender() -> None:
    order: list[str] = []
    contenders = {name: lambda name=name: order.append(name) for name in "abc"}  # type: ignore[misc]
    seconds = measure.interleaved_seconds(contenders, 3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 3)
    assert list(seconds) == ["a", "b", "c"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot count anew")
def test_loading_does_not_hide_what_a_contender_needs() -> None:
    def peak(needed: int) -> int:
        command = [sys.executable, "-c", CONTENDER, str(needed)]
        root = Path(measure.__file__).parents[1]
        run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
        return int(run.stdout)

    assert peak(60_000_000) - peak(0) == pytest.approx(60_000_000, rel=0.1)


def test_a_system_that_cannot_count_anew_gives_the_peak_since_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "peak_memory_bytes", lambda: 123)
    runs: list[None] = []
    for process in (tmp_path / "missing", tmp_path):
        monkeypatch.setattr(measure, "_PROCESS", process)
        measure.print_peak_memory(lambda: runs.append(None))
        assert capsys.readouterr().out == "123\n"
    assert len(runs) == 4
    (tmp_path / "status").write_text("VmPeak:\t  9 kB\nVmHWM:\t   7 kB\nVmRSS:\t  5 kB\n")
    measure.print_peak_memory(lambda: runs.append(None))
    assert capsys.readouterr().out == f"{7 * 1024}\n"
    assert (tmp_path / "clear_refs").read_text() == "5"


def test_memory_is_the_median_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = iter(["loaded\n900\n", "500\n", "600\n"])
    monkeypatch.setattr(measure, "output_of", lambda *_: next(printed))
    assert measure.peak_memory_of("benchmarks.any", "--only", "one") == 600


def test_a_gpu_has_the_tighter_limit() -> None:
    assert most_time(torch.device("cpu")) == 1.2
    assert most_time(torch.device("cuda")) == 1.1
