"""Run single jobs of a finished project in children of one warm process, and disturb them.

A job's program spends most of its time importing libraries. A child that is forked from a process
which has imported them begins with the work itself, so that most random moments fall into it and
hundreds of disturbed runs take minutes.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First the one that keeps the libraries below from showing progress of their own.
PRELOADED = ("lpsteps.evaluation.harness", "torch", "transformers", "pandas", "peft")
LONGEST = 300.0
"""Seconds after which a child counts as hanging."""


@dataclass(frozen=True)
class Run:
    """How a child ended.

    Attributes:
        status: Exit status, or minus the number of the signal that ended it.
        output: What it printed.
        seconds: How long it took.
        hung: Whether it was killed because it did not end.
    """

    status: int
    output: str
    seconds: float
    hung: bool

    @property
    def told(self) -> bool:
        """Whether it ended with exit status 1 and one line that begins with `error:`."""
        lines = self.output.splitlines()
        return self.status == 1 and len(lines) == 1 and lines[0].startswith("error: ")


def preload() -> None:
    """Import what the steps import, once."""
    for name in PRELOADED:
        importlib.import_module(name)


def run_job(
    root: Path,
    job: dict[str, Any],
    *,
    prepare: Callable[[], None] | None = None,
    kill_after: float | None = None,
) -> Run:
    """Run a job in a child.

    Args:
        root: The project.
        job: A record of the job.
        prepare: Called in the child before the job, for example to limit its memory.
        kill_after: Seconds after which it is killed with SIGKILL; None for never.
    """
    # A pipe, because limits of files and full disks hold for a file, too.
    printed, write_end = os.pipe()
    os.set_blocking(printed, False)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _work(root, job, write_end, prepare)
    os.close(write_end)
    status, output = _wait(child, printed, LONGEST if kill_after is None else kill_after)
    os.close(printed)
    seconds = time.monotonic() - began
    hung = status == -signal.SIGKILL and kill_after is None and seconds >= LONGEST
    return Run(status, output, seconds, hung)


def _work(
    root: Path, job: dict[str, Any], printed: int, prepare: Callable[[], None] | None
) -> None:
    status = 99
    try:
        os.chdir(root)
        # The project's copy of the code, which made the results, is no checkout with a commit.
        os.environ["GIT_DIR"] = os.devnull
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        main = importlib.import_module(job["module"]).main
        if prepare is not None:
            prepare()
        status = main(job["command"][3:])
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait(child: int, printed: int, longest: float) -> tuple[int, str]:
    """Wait for a child, kill it when it takes longer, and return how it ended and what it wrote."""
    deadline = time.monotonic() + longest
    output = b""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        output += _read(printed)
        if ended:
            return os.waitstatus_to_exitcode(status), output.decode(errors="replace")
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.001)


def _read(pipe: int) -> bytes:
    """Return what is in a pipe now."""
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return b""
