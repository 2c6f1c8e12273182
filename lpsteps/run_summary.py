"""What a run of the workflow tells at its end: what ran, what was kept, where the results are.

The functions read Snakemake's own jobs (``workflow.dag``) and return text; nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from lpsteps.runtime import job_seconds, readable_duration
from lpsteps.wording import counted

PAGE = Path("reports/tables.html")
LAST_LINES = 8
MOST_NAMED = 3


class Job(Protocol):
    """What is read of a job of Snakemake.

    Attributes:
        name: Name of its rule.
        output: Files that it writes; none for a rule that only collects files.
        log: Files for its messages.
        benchmark: File with its time, None for a rule without one.
    """

    name: str
    output: Iterable[str]
    log: Iterable[str]
    benchmark: str | None


class Graph(Protocol):
    """What is read of Snakemake's graph of jobs.

    Attributes:
        jobs: All jobs behind the targets.
        finished_jobs: Those that this run has run to their end.
        targetfiles: The files that were asked for by name.
    """

    jobs: Iterable[Job]
    finished_jobs: Iterable[Job]
    targetfiles: Iterable[str]


def _with_output(jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if list(job.output)]


def _rules(jobs: list[Job]) -> str:
    """List the rules that ran with the number of their jobs and the time of all, longest first.

    A rule of which no job was measured, as with ``--cache``, comes without a time.
    """
    rules: dict[str, list[Job]] = {}
    for job in jobs:
        rules.setdefault(job.name, []).append(job)
    seconds: dict[str, float] = {}
    for rule, members in rules.items():
        known = [job_seconds(Path(job.benchmark)) for job in members if job.benchmark]
        seconds[rule] = sum(time for time in known if time is not None)
    # A time is never 0 where there is one.
    times = {
        rule: f" ({readable_duration(time)})" if time else "" for rule, time in seconds.items()
    }
    return ", ".join(
        f"{rule} {len(rules[rule])}{times[rule]}"
        for rule in sorted(rules, key=lambda rule: (-seconds[rule], rule))
    )


def _name(path: str) -> str:
    """Return a file's path, or its address where it lies in object storage."""
    stored = getattr(path, "storage_object", None)
    return str(path) if stored is None else str(stored.query)


def _place(graph: Graph) -> str:
    """Say where the page is when the run was about it, else where the files asked for are."""
    made = [path for job in graph.jobs for path in job.output]
    for path in made:
        if str(path) == str(PAGE):
            return f"The page: {PAGE.resolve().as_uri()}"
        if str(path).endswith(f"/{PAGE}"):
            return f"The page: {_name(path)}"
    asked = sorted(_name(path) for path in graph.targetfiles)
    more = f" and {len(asked) - MOST_NAMED} more" if len(asked) > MOST_NAMED else ""
    return f"Made: {', '.join(asked[:MOST_NAMED])}{more}"


def after_success(graph: Graph) -> str:
    """Return what ran, what was up to date, and where the results are, a line each.

    Args:
        graph: Snakemake's graph of the finished run.
    """
    ran = _with_output(graph.finished_jobs)
    kept = len(_with_output(graph.jobs)) - len(ran)
    reused = f"Reused: the results of {counted(kept, 'job')}" if kept else "Reused: nothing"
    return f"Ran {counted(len(ran), 'job')}: {_rules(ran)}\n{reused}\n{_place(graph)}"


def _last_lines(log: Path) -> list[str]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    except OSError:
        return ["(not written: the job was stopped before it could say anything)"]
    return lines[-LAST_LINES:]


def _members(job: Job) -> list[Job]:
    """Return a failed job, or those jobs of a failed group that can have failed.

    On a cluster several jobs are run as a group, and Snakemake learns only that the group failed.
    Jobs that have made their outputs have not failed, nor have those that never wrote to a log.
    """
    members: list[Job] = list(getattr(job, "jobs", [job]))
    suspects = [
        member
        for member in members
        if not all(Path(path).exists() for path in member.output)
        and any(Path(log).exists() for log in member.log)
    ]
    return suspects or members


def after_failure(graph: Graph, failed: Iterable[Job], logs_shown: bool) -> str:
    """Return the failed jobs with the end of their logs, and how to go on.

    Args:
        graph: Snakemake's graph of the run.
        failed: The jobs and groups of jobs that failed.
        logs_shown: Whether Snakemake has printed the logs already (``--show-failed-logs``).

    Returns:
        The text; empty when no job failed, as after an interruption, which the interrupted jobs
        tell themselves.
    """
    lines: list[str] = []
    members = [member for job in failed for member in _members(job)]
    for job in sorted(members, key=lambda job: [*map(str, job.log)]):
        for log in job.log:
            lines.append(f"Failed: {job.name}; its log: {_name(log)}")
            # The log of a job elsewhere is not here.
            if not logs_shown and (_name(log) == str(log) or Path(log).exists()):
                lines += [f"    {line}" for line in _last_lines(Path(log))]
    if not lines:
        return ""
    finished = len(_with_output(graph.finished_jobs))
    kept = f"{counted(finished, 'job')} finished and will not run again. " if finished else ""
    return "\n".join([*lines, f"{kept}The same command continues from here."])
