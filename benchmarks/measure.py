"""What all benchmarks share: interleaved timing, peak memory in processes of their own, results."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lpsteps.artifacts import write_json
from lpsteps.fingerprint import ROOT
from lpsteps.progress import track
from lpsteps.provenance import git_state, machine

RESULTS = Path(__file__).parent / "results"


def interleaved_seconds(
    contenders: Mapping[str, Callable[[], object]], repetitions: int
) -> dict[str, list[float]]:
    """Time every contender so many times, in turns, after one unmeasured run of each.

    Turns spread whatever else slows the machine down over all of them.

    Args:
        contenders: What to run, by name.
        repetitions: Measured runs of each.

    Returns:
        Seconds of each run, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in track(range(repetitions + 1), "benchmark"):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each contender."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_of_ratios(numerator: list[float], denominator: list[float]) -> float:
    """Return the median over the rounds of one contender's seconds over another's."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def peak_memory_of(module: str, *arguments: str) -> int:
    """Run a benchmark in a process of its own that prints its peak memory in bytes last."""
    command = [sys.executable, "-m", module, *arguments]
    return int(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def write_result(name: str, facts: Mapping[str, Any]) -> Path:
    """Write a result with the commit, the machine and the versions that it was measured with."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    this = machine()
    context = {
        "commit": git_state(ROOT),
        "machine": {key: this[key] for key in ("processor", "cores", "gpu") if key in this},
        "libraries": {package: version(package) for package in ("numpy", "torch", "transformers")},
    }
    write_json(path, {**facts, **context})
    return path
