"""How long each rule took and how much memory it used, from Snakemake's benchmark files."""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from lpsteps.errors import LpstepsError

FOLDER = Path("results/runtime")


@dataclass(frozen=True)
class RuleTime:
    """All finished jobs of one rule.

    Attributes:
        rule: Name of the step.
        jobs: How many there were.
        seconds: Wall time of all together.
        peak_megabytes: Largest resident memory of any.
    """

    rule: str
    jobs: int
    seconds: float
    peak_megabytes: float


def _number(text: str | None) -> float:
    # Snakemake writes "NA" or "-" when a job ended before it was measured; a short row has none.
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _rows(benchmark: Path) -> list[dict[str, str]]:
    """Return the jobs of a benchmark file; none of one that is empty, cut short or not there."""
    try:
        text = benchmark.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    return [row for row in rows if row.get("s")]


def job_seconds(benchmark: Path) -> float | None:
    """Return the wall time of the last job that wrote a benchmark file, None without a number."""
    rows = _rows(benchmark)
    return (_number(rows[0]["s"]) or None) if rows else None


def median_seconds(folder: Path = FOLDER) -> dict[str, float]:
    """Return the median wall time of a job of each step that has been measured below a folder."""
    measured: dict[str, list[float]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        seconds = job_seconds(path)
        if seconds is not None:
            measured.setdefault(step_of(path, folder), []).append(seconds)
    return {step: statistics.median(values) for step, values in measured.items()}


def step_of(benchmark: Path, folder: Path = FOLDER) -> str:
    """Return the step that a benchmark file is about: the first folder below that of all."""
    return benchmark.relative_to(folder).parts[0]


def readable_duration(seconds: float) -> str:
    """Return a duration in words, such as ``45 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def rule_times(folder: Path = FOLDER) -> list[RuleTime]:
    """Sum up the benchmark files below a folder, the longest rule first.

    Files without a measurement, as a full disk or an interruption leaves them, count for nothing.

    Raises:
        LpstepsError: There are none.
    """
    measured: dict[str, list[dict[str, str]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        rows = _rows(path)
        if rows:
            measured.setdefault(step_of(path, folder), []).extend(rows)
    if not measured:
        raise LpstepsError(f"{folder}: no job has been measured yet; run the workflow first")
    times = [
        RuleTime(
            rule=rule,
            jobs=len(rows),
            seconds=sum(_number(row["s"]) for row in rows),
            peak_megabytes=max(_number(row.get("max_rss")) for row in rows),
        )
        for rule, rows in measured.items()
    ]
    return sorted(times, key=lambda time: (-time.seconds, time.rule))


def times_markdown(times: list[RuleTime]) -> str:
    """Return the times as a Markdown table with a total."""
    lines = ["| rule | jobs | seconds | peak memory |", "|---|---:|---:|---:|"]
    lines += [
        f"| `{time.rule}` | {time.jobs} | {time.seconds:.0f} | {time.peak_megabytes:.0f} MB |"
        for time in times
    ]
    total = sum(time.seconds for time in times)
    peak = max(time.peak_megabytes for time in times)
    jobs = sum(time.jobs for time in times)
    return "\n".join([*lines, f"| all | {jobs} | {total:.0f} | {peak:.0f} MB |"])
