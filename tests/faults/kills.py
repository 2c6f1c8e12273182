"""SIGKILL at random moments of a job, and at every change that its commit makes to the disk."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faults.forked import run_job
from faults.outcome import Outcome, Sandbox, judge

MOST_CHANGES = 60
"""Changes to the disk after which a commit is taken to have no end."""


def random_kills(
    sandbox: Sandbox, jobs: Sequence[dict[str, Any]], kills: int, seed: int
) -> Iterator[Outcome]:
    """Kill each job several times at moments that are spread over its duration.

    Every second time the job's outputs are there already, as after a change of its settings.

    Args:
        sandbox: The project.
        jobs: Records of the jobs.
        kills: How often each is killed.
        seed: Chooses the moments.
    """
    generator = random.Random(seed)
    for job in jobs:
        sandbox.remove_outputs(job)
        undisturbed = run_job(sandbox.root, job)
        if undisturbed.status != 0:
            yield Outcome("none", job["rule"], "wrong", undisturbed.output)
            sandbox.restore()
            continue
        for kill in range(kills):
            fault = "killed, with results of an earlier run there"
            if kill % 2 == 0:
                sandbox.remove_outputs(job)
                fault = "killed in its first run"
            moment = generator.uniform(0.0, undisturbed.seconds)
            yield judge(fault, job, run_job(sandbox.root, job, kill_after=moment), sandbox)


def kills_in_commit(sandbox: Sandbox, jobs: Sequence[dict[str, Any]]) -> Iterator[Outcome]:
    """Kill each job before every single change to the disk: each flush, rename and removal."""
    for job in jobs:
        for changes in range(MOST_CHANGES):
            sandbox.remove_outputs(job)
            run = run_job(sandbox.root, job, prepare=lambda left=changes: _die_after(left))
            if run.status == 0:
                break
            yield judge("killed before one of the changes of its commit", job, run, sandbox)


def _die_after(changes: int) -> None:
    """Let this process change the disk so many times, and die before the next time."""
    left = [changes]

    def counted(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return action(*arguments, **options)

        return act

    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
