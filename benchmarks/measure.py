"""What all benchmarks share: interleaved timing, peak memory in processes of their own, results."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lpsteps.artifacts import write_json
from lpsteps.errors import LpstepsError
from lpsteps.fingerprint import ROOT
from lpsteps.progress import track
from lpsteps.provenance import git_state, machine, peak_memory_bytes

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


def figure(
    name: str,
    value: float,
    unit: str = "times",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> dict[str, Any]:
    """Return one figure of a result as it is stored.

    Args:
        name: What it is, in words that stand in a table.
        value: The measured number.
        unit: ``times`` for a ratio, else its unit.
        at_most: The limit that the project sets itself, where there is one.
        at_least: The same for a number that has to be large.
    """
    limits = {"at_most": at_most, "at_least": at_least}
    stated = {key: limit for key, limit in limits.items() if limit is not None}
    return {"name": name, "value": float(f"{value:.6g}"), "unit": unit, **stated}


def write_result(name: str, facts: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result with the commit, the machine and the versions that it was measured with."""
    path = folder / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    this = machine()
    context = {
        "commit": git_state(ROOT),
        "machine": {key: this[key] for key in ("processor", "cores", "gpu") if key in this},
        "libraries": {package: version(package) for package in ("numpy", "torch", "transformers")},
    }
    write_json(path, {**facts, **context})
    return path


def run_benchmark(
    name: str,
    add_arguments: Callable[[ArgumentParser], None],
    measured: Callable[[Namespace], Mapping[str, Any]],
    contender: Callable[[Namespace], Callable[[], object]] | None = None,
) -> int:
    """Measure, print the figures and write ``results/NAME.json``; or measure memory alone.

    Args:
        name: Name of the module in this package.
        add_arguments: Adds the options.
        measured: Does the work; returns ``settings`` and ``figures``.
        contender: Returns the one that the option ``--only`` names. With this option it runs twice
            and nothing is printed but the peak memory of this process in bytes, as
            :func:`peak_memory_of` reads it.

    Returns:
        0, or 1 after an error, which is one line on standard error.
    """
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}")
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        if contender is not None and arguments.only:
            run = contender(arguments)
            run()
            run()
            print(peak_memory_bytes())
            return 0
        result = measured(arguments)
        path = write_result(name, result)
    except LpstepsError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return 1
    for entry in result["figures"]:
        print(f"{entry['name']}: {entry['value']:g} {entry['unit']}")
    print(path)
    return 0
