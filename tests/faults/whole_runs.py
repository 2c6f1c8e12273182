"""Whole Snakemake runs that are killed, started twice, or find the clock in disorder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from project import snakemake, start_snakemake

from faults.outcome import Outcome

PAGE = "reports/tables.html"
WHOLE = "whole run"
DAY = 86400


def pages(project: Path) -> dict[str, bytes | None]:
    """What a reader gets of a project: the page, its numbers and its tables."""
    names = [PAGE, "reports/tables.json"]
    names += sorted(
        str(path.relative_to(project)) for path in (project / "reports/tables").glob("*.csv")
    )
    return {
        name: (project / name).read_bytes() if (project / name).is_file() else None
        for name in names
    }


def _compared(fault: str, project: Path, expected: dict[str, bytes | None], tale: str) -> Outcome:
    different = [name for name, content in pages(project).items() if content != expected[name]]
    leftovers = [path.name for path in project.rglob(".partial-*")]
    if different or leftovers:
        detail = f"different: {different}, left: {leftovers}; {tale[-1500:]}"
        return Outcome(fault, WHOLE, "wrong", detail)
    return Outcome(fault, WHOLE, "continued")


def _is_whole(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def remove_results(project: Path) -> None:
    """Take all results away, and leave the data, the model and Snakemake's memory of them."""
    shutil.rmtree(project / "results", ignore_errors=True)
    for name in pages(project):
        (project / name).unlink(missing_ok=True)


def killed_runs(finished: Path, folder: Path, kills: int, seed: int) -> Iterator[Outcome]:
    """Kill Snakemake and all its jobs at random moments of one run, until it has ended.

    The lock that each leaves is taken away as its message says, and the same command goes on.

    Args:
        finished: The project after an undisturbed run.
        folder: An existing folder for a copy.
        kills: How often to kill.
        seed: Chooses the moments.
    """
    expected = pages(finished)
    project = folder / "killed"
    shutil.copytree(finished, project, symlinks=True)
    remove_results(project)
    generator = random.Random(seed)
    for _ in range(kills):
        process = start_snakemake(project, PAGE)
        time.sleep(generator.uniform(5, 40))
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if ended:
            remove_results(project)
            continue
        false = [
            path
            for path in project.rglob("*.json")
            if not path.name.startswith(".") and not _is_whole(path)
        ]
        if false:
            yield Outcome("whole run killed", WHOLE, "wrong", f"half written: {false}")
        locked = snakemake(project, PAGE)
        if locked.returncode != 0 and "--unlock" not in locked.stdout:
            yield Outcome("stale lock", WHOLE, "wrong", locked.stdout[-1500:])
        elif locked.returncode != 0:
            yield Outcome("stale lock", WHOLE, "told", "snakemake --unlock")
        snakemake(project, "--unlock")
    run = snakemake(project, PAGE)
    for _ in range(kills):
        yield _compared("whole run killed", project, expected, run.stdout)


def two_at_once(finished: Path, folder: Path) -> Iterator[Outcome]:
    """Start the same command twice: one goes on, the other one says that the first has the lock."""
    expected = pages(finished)
    project = folder / "twice"
    shutil.copytree(finished, project, symlinks=True)
    scores = sorted((project / "results").rglob("scores/*.json"))[:4]
    for path in [*scores, project / "reports/tables.json", project / PAGE]:
        path.unlink()
    first, second = start_snakemake(project, PAGE), start_snakemake(project, PAGE)
    tales = [process.communicate(timeout=900)[0] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    refused = [tale for code, tale in zip(codes, tales, strict=True) if code != 0]
    if any("lock" not in tale for tale in refused):
        yield Outcome("two runs at once", WHOLE, "wrong", "\n".join(refused)[-1500:])
        return
    run = snakemake(project, PAGE)
    yield _compared("two runs at once", project, expected, run.stdout)


def disordered_times(finished: Path, folder: Path, seed: int) -> Iterator[Outcome]:
    """Give every file another time, so that results seem older than what they were made from."""
    expected = pages(finished)
    project = folder / "times"
    shutil.copytree(finished, project, symlinks=True)
    generator = random.Random(seed)
    for path in sorted(project.rglob("*")):
        if path.is_file() and not path.is_symlink() and ".snakemake" not in path.parts:
            moment = time.time() + generator.randint(-900 * DAY, 0)
            os.utime(path, (moment, moment))
    run = snakemake(project, PAGE)
    if run.returncode != 0:
        yield Outcome("times of all files in disorder", WHOLE, "wrong", run.stdout[-1500:])
        return
    yield _compared("times of all files in disorder", project, expected, run.stdout)
