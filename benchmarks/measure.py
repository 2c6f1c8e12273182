"""What all benchmarks share: interleaved timing, peak memory in processes of their own, results."""

from __future__ import annotations

import ctypes
import gc
import re
import shlex
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
_PROCESS = Path("/proc/self")
_PROCESSES_FOR_MEMORY = 3


def interleaved_seconds(
    contenders: Mapping[str, Callable[[], object]], repetitions: int
) -> dict[str, list[float]]:
    """Time every contender so many times, in turns, after one unmeasured run of each.

    Turns spread whatever else slows the machine down over all of them. Each round starts with
    another contender, so that none always finds the caches as the same one has left them.

    Args:
        contenders: What to run, by name.
        repetitions: Measured runs of each.

    Returns:
        Seconds of each run, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for repetition in track(range(repetitions + 1), "benchmark", between_items=True):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            run = contenders[name]
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


def output_of(module: str, *arguments: str) -> str:
    """Run a program in a process of its own and return what it prints.

    Raises:
        LpstepsError: It failed; what it says of that stands on standard error by then.
    """
    command = [sys.executable, "-m", module, *arguments]
    run = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        raise LpstepsError(
            f"python -m {shlex.join([module, *arguments])}: ended with status {run.returncode}; "
            "see its own message"
        )
    return run.stdout


def peak_memory_of(module: str, *arguments: str) -> int:
    """Run a benchmark in processes of its own, each of which prints its peak memory in bytes last.

    Returns:
        The median over them: what the C library keeps for later differs from process to process.

    Raises:
        LpstepsError: One failed.
    """
    peaks = [int(output_of(module, *arguments).split()[-1]) for _ in range(_PROCESSES_FOR_MEMORY)]
    return statistics.median_low(peaks)


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


def result_name(name: str, arguments: Namespace) -> str:
    """Return the name of a benchmark's result: with the number type, where one is asked for."""
    dtype = getattr(arguments, "dtype", None)
    return f"{name}-{dtype}" if dtype else name


def write_result(name: str, facts: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result with the commit, the machine and the versions that it was measured with."""
    path = folder / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    this = machine()
    context = {
        # Those that were measured before this one have left their marks.
        "commit": git_state(ROOT, besides=("benchmarks/results", "docs/performance.md")),
        "machine": {key: this[key] for key in ("processor", "cores", "gpu") if key in this},
        "libraries": {package: version(package) for package in ("numpy", "torch", "transformers")},
    }
    write_json(path, {**facts, **context})
    return path


def print_peak_memory(run: Callable[[], object]) -> None:
    """Run twice and print the peak memory in bytes, for :func:`peak_memory_of`.

    It is the peak of the second run, so that neither the loading of a model counts nor what is set
    up once. What a first run keeps does count, such as gradients and the state of an optimiser,
    and so do the model and the inputs. With a model on a GPU it is what torch has allocated there.
    Elsewhere it is the largest resident size of this process: under Linux in the second run, on
    other systems since its start.
    """
    import torch

    _return_free_memory()
    run()
    on_gpu = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    since_reset = _reset_largest_resident_size()
    run()
    if on_gpu:
        print(torch.cuda.max_memory_allocated())
    elif since_reset:
        print(_largest_resident_size())
    else:
        print(peak_memory_bytes())


def _return_free_memory() -> None:
    """Give back what the loading of a model has freed.

    The C library would keep it and hand it to the contender, whose own memory would not show.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _reset_largest_resident_size() -> bool:
    """Let Linux count the largest resident size of this process anew, if it can."""
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return _largest_resident_size() is not None


def _largest_resident_size() -> int | None:
    """Return what Linux has counted since then, in bytes; None where it does not count."""
    try:
        status = (_PROCESS / "status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def exit_status(name: str, work: Callable[[], None]) -> int:
    """Do the work of a benchmark.

    Returns:
        0, or 1 after an error, which is one line on standard error.
    """
    try:
        work()
    except LpstepsError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return 1
    return 0


def run_benchmark(
    name: str,
    add_arguments: Callable[[ArgumentParser], None],
    measured: Callable[[Namespace], Mapping[str, Any]],
    contender: Callable[[Namespace], Callable[[], object]] | None = None,
) -> int:
    """Measure, print the figures and write the result; or measure memory alone.

    Args:
        name: Name of the module in this package.
        add_arguments: Adds the options.
        measured: Does the work; returns ``settings`` and ``figures``.
        contender: Returns the one that the option ``--only`` names. With this option it runs twice
            and nothing is printed but its peak memory in bytes, as :func:`peak_memory_of` reads
            it.

    Returns:
        0, or 1 after an error, which is one line on standard error.
    """
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}")
    add_arguments(parser)
    arguments = parser.parse_args()

    def work() -> None:
        if contender is not None and arguments.only:
            print_peak_memory(contender(arguments))
            return
        result = measured(arguments)
        path = write_result(result_name(name, arguments), result)
        for entry in result["figures"]:
            print(f"{entry['name']}: {entry['value']:g} {entry['unit']}")
        print(path)

    return exit_status(name, work)
