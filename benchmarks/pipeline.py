"""What the workflow engine and the start of programs cost beside the work of the steps.

Run it with ``make bench-pipeline``. Three things are measured:

- the last run of the default profile, from its records and Snakemake's benchmark files: its wall
  time, and the part of it in which no step was at work. A step is at work from the moment when its
  program has its libraries and its options until its outputs have their names, hashes included.
- a dry run in which everything is done already.
- dry runs of profiles with very many variants, of which nothing is there, beside a bare workflow of
  two rules with as many jobs.
"""

from __future__ import annotations

import csv
import math
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.measure import (
    figure,
    interleaved_seconds,
    median_of_ratios,
    medians,
    run_benchmark,
)
from lpsteps.artifacts import read_json
from lpsteps.errors import LpstepsError
from lpsteps.fingerprint import ROOT
from lpsteps.provenance import RECORD_SUFFIX

SIZES = (10, 100, 1000, 10000)
# Half a minute for each turn, which varies little.
MANY_JOBS, TURNS_WITH_MANY_JOBS = 10000, 3
PAGE = "reports/tables.html"
# Levels and recoveries of the widest profile; more jobs than these make come from more selections.
MOST_LEVELS, MOST_RECOVERIES = 29, 17
BARE_WORKFLOW = """
rule all:
    input: expand("second/{{number}}", number=range({pairs}))
rule first:
    output: "first/{{number}}"
    shell: "touch {{output}}"
rule second:
    input: "first/{{number}}"
    output: "second/{{number}}"
    shell: "touch {{output}}"
"""


class Interval(NamedTuple):
    """A time in which a step was at work, in seconds since some moment."""

    start: float
    end: float


def length_of_union(intervals: Iterable[Interval]) -> float:
    """Return the seconds in which at least one of the intervals runs."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def work_intervals(folders: Sequence[Path]) -> list[Interval]:
    """Return when the steps were at work whose records lie in some folders.

    Raises:
        LpstepsError: There are no records.
    """
    found = set()
    for path in (path for folder in folders for path in folder.rglob(f"*{RECORD_SUFFIX}")):
        record = read_json(path)
        start = datetime.fromisoformat(record["started"]).timestamp()
        found.add(Interval(start, start + record["duration_seconds"]))
    if not found:
        raise LpstepsError(f"{PAGE}: has not been built here; build it with `make report`")
    return sorted(found)


def seconds_of_jobs(folder: Path) -> list[float]:
    """Return the wall time of each job, from the benchmark files below a folder."""
    seconds = []
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(encoding="utf-8") as stream:
            seconds += [float(row["s"]) for row in csv.DictReader(stream, delimiter="\t")]
    return seconds


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in a folder and return what it prints.

    Raises:
        LpstepsError: It fails.
    """
    program = Path(sys.executable).parent / "snakemake"
    run = subprocess.run(
        [str(program), "--cores", "1", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        said = " ".join(run.stdout.split())
        raise LpstepsError(f"snakemake {' '.join(arguments)}: failed in {folder}: {said[-300:]}")
    return run.stdout


def dry_run(folder: Path, *arguments: str) -> int:
    """Run Snakemake dry and return the number of jobs that it would run."""
    totals = re.findall(r"^total +(\d+)$", snakemake(folder, "-n", *arguments), re.MULTILINE)
    return int(totals[-1]) if totals else 0


def write_wide_project(folder: Path, jobs: int) -> list[str]:
    """Write a profile with about so many jobs, most of them of variants of one model.

    Args:
        folder: Gets a profile, a table and links to the configuration of this checkout.
        jobs: How many jobs there are to be; a dozen for text and statistics come on top.

    Returns:
        Arguments for Snakemake.
    """
    recoveries = min(MOST_RECOVERIES, max(1, jobs // 6))
    # A plan, and a patch and its perplexity for each recovery.
    for_one_level = 1 + 2 * recoveries
    selections = math.ceil(jobs / (MOST_LEVELS * for_one_level))
    levels = min(MOST_LEVELS, math.ceil(jobs / (selections * for_one_level)))
    names = [
        (f"s{selection}", f"r{recovery}")
        for selection in range(selections)
        for recovery in range(recoveries)
    ]
    definitions = {
        "selections": {
            selection: {"title": selection, "metric": "block_influence"} for selection, _ in names
        },
        "recoveries": {
            recovery: {"title": recovery, "method": "linearpatch"} for _, recovery in names
        },
    }
    table = {
        "id": "wide",
        "title": "Wide",
        "caption": "Many variants.",
        "columns": [{"id": "wikipedia", "title": "Wikipedia", "unit": "perplexity"}],
        "rows": [
            {"id": f"{s}-{r}", "label": f"{s} {r}", "selection": s, "recovery": r} for s, r in names
        ],
    }
    profile = {
        "definitions": ["config/models.yaml", "config/data.yaml", "definitions.yaml"],
        "tables": {"wide": {"smollm2-135m": list(range(1, levels + 1))}},
        "calibration": "wikipedia",
        "suites": {"perplexity": {"protocol": "perplexity", "benchmarks": {"wikipedia": 4}}},
        "window_length": 512,
        "batch_tokens": 2048,
        "dtype": "auto",
        "seed": 0,
    }
    (folder / "reports/tables").mkdir(parents=True)
    for name in ("config", "reports/templates", "reports/figures", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    for path, content in (
        ("definitions.yaml", definitions),
        ("reports/tables/wide.yaml", table),
        ("profile.yaml", profile),
    ):
        (folder / path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return [PAGE, "--snakefile", str(ROOT / "Snakefile"), "--configfile", "profile.yaml"]


def write_bare_project(folder: Path, jobs: int) -> None:
    """Write a workflow of two rules with so many jobs, an even number."""
    folder.mkdir(parents=True)
    (folder / "Snakefile").write_text(BARE_WORKFLOW.format(pairs=jobs // 2), encoding="utf-8")


def dry_run_seconds(
    folder: Path, sizes: Sequence[int], repetitions: int
) -> dict[int, dict[str, list[float]]]:
    """Time dry runs of our workflow and of a bare one, for several numbers of jobs.

    Args:
        folder: Gets a project for each.
        sizes: Numbers of jobs asked for.
        repetitions: Measured runs of each, at most :data:`TURNS_WITH_MANY_JOBS` with many jobs.

    Returns:
        By the number of jobs that there really are, seconds of ``ours`` and ``bare``.
    """
    found = {}
    for size in sizes:
        ours, bare = folder / f"wide-{size}", folder / f"bare-{size}"
        arguments = write_wide_project(ours, size)
        jobs = dry_run(ours, *arguments)
        write_bare_project(bare, jobs)
        contenders: dict[str, Callable[[], object]] = {
            "ours": partial(dry_run, ours, *arguments),
            "bare": partial(dry_run, bare),
        }
        turns = repetitions if jobs < MANY_JOBS else min(repetitions, TURNS_WITH_MANY_JOBS)
        found[jobs] = interleaved_seconds(contenders, turns)
    return found


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure everything; returns what ``results/pipeline.json`` holds."""
    project: Path = arguments.project
    intervals = work_intervals([project / "resources", project / "results", project / "reports"])
    wall = max(end for _, end in intervals) - intervals[0].start
    idle = wall - length_of_union(intervals)
    jobs = seconds_of_jobs(project / "results/runtime")
    start_up = sum(jobs) - sum(end - start for start, end in intervals)
    if dry_run(project, PAGE):
        raise LpstepsError(f"{PAGE}: is not up to date; build it with `make report`")
    no_op = interleaved_seconds({"no-op": partial(dry_run, project, PAGE)}, arguments.repetitions)
    with tempfile.TemporaryDirectory() as folder:
        dry_runs = dry_run_seconds(Path(folder), arguments.sizes, arguments.repetitions)
    return {
        "settings": {
            "jobs_of_the_default": len(jobs),
            "repetitions": arguments.repetitions,
            "repetitions_with_many_jobs": min(arguments.repetitions, TURNS_WITH_MANY_JOBS),
        },
        "figures": [
            figure("wall time of the default", wall, "s"),
            figure("share of it in which no step works", 100 * idle / wall, "%", at_most=20),
            figure("start of a program, mean over its jobs", start_up / len(jobs), "s"),
            figure("dry run with nothing to do", medians(no_op)["no-op"], "s", at_most=5),
            *(
                entry
                for count, seconds in dry_runs.items()
                for entry in (
                    figure(
                        f"dry run of {count:,} jobs",
                        medians(seconds)["ours"],
                        "s",
                        at_most=25 if count >= MANY_JOBS else None,
                    ),
                    figure(
                        f"dry run of {count:,} jobs over a bare workflow of as many",
                        median_of_ratios(seconds["ours"], seconds["bare"]),
                    ),
                )
            ),
        ],
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--project", type=Path, default=Path(), help="folder where the default profile was built"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="numbers of jobs of the dry runs"
    )
    parser.add_argument("--repetitions", type=int, default=5, help="measured runs")


def main() -> int:
    """Measure and write ``results/pipeline.json``."""
    return run_benchmark("pipeline", add_arguments, measured)


if __name__ == "__main__":
    raise SystemExit(main())
