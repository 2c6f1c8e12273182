"""What of a page exists, what is stale and why, and what bringing it up to date would cost.

Which jobs run is Snakemake's answer (:mod:`lpsteps.dry_run`), the reasons are told by
:mod:`lpsteps.staleness`, and the times are those of earlier jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lpsteps.dry_run import Job
from lpsteps.errors import LpstepsError
from lpsteps.provenance import RECORD_SUFFIX
from lpsteps.run_summary import MOST_NAMED
from lpsteps.runtime import job_seconds, readable_duration
from lpsteps.staleness import Cause, causes, differences
from lpsteps.wording import counted


@dataclass(frozen=True)
class PendingJob:
    """A job that would run.

    Attributes:
        job: Its name, which is its log file without folder and suffix.
        step: The program that it runs.
        outputs: Files that it writes.
        causes: Its own reasons; empty when it only follows other jobs.
        follows: Names of jobs in front of it that run first.
        seconds: How long it may take, None when no job of the step has been measured.
        basis: What ``seconds`` is: the time that the same job took last (``job``), the median of
            the step's jobs (``step``), or None.
    """

    job: str
    step: str
    outputs: list[str]
    causes: list[Cause]
    follows: list[str]
    seconds: float | None
    basis: Literal["job", "step"] | None


@dataclass(frozen=True)
class Status:
    """The state of the targets.

    Attributes:
        targets: What was asked about.
        current: Names of the jobs whose outputs are up to date, by step.
        pending: The jobs that would run, sorted by name.
        doubtful: Outputs that Snakemake holds for current though their record names other code,
            settings or software, with what differs. ``snakemake --touch`` leaves such.
        gone: Outputs that are not there and that nothing needs which is up to date itself.
    """

    targets: list[str]
    current: dict[str, list[str]]
    pending: list[PendingJob]
    doubtful: dict[str, list[Cause]]
    gone: list[str]

    @property
    def seconds(self) -> float:
        """What all pending jobs with an estimate may take one after another."""
        return sum((job.seconds for job in self.pending if job.seconds is not None), start=0.0)

    @property
    def unmeasured(self) -> int:
        """How many pending jobs have no estimate."""
        return sum(job.seconds is None for job in self.pending)

    def as_json(self) -> dict[str, Any]:
        """Return all fields as plain data, with the sums."""
        return {**asdict(self), "seconds": self.seconds, "unmeasured": self.unmeasured}


def status(targets: Sequence[str], jobs: Sequence[Job], medians: Mapping[str, float]) -> Status:
    """Return the state of targets.

    Args:
        targets: What was asked about.
        jobs: All jobs behind them, as Snakemake plans them.
        medians: Median seconds of a job by step, from earlier runs.
    """
    makers = {path: job.name for job in jobs for path in job.outputs}
    return Status(
        targets=list(targets),
        current=_by_step(job for job in jobs if not job.to_run),
        pending=[_pending(job, makers, medians) for job in jobs if job.to_run],
        doubtful=dict(_doubtful(jobs)),
        gone=sorted(path for job in jobs if not job.to_run for path in _gone(job)),
    )


def _by_step(jobs: Iterable[Job]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for job in jobs:
        names.setdefault(job.step, []).append(job.name)
    return names


def _pending(job: Job, makers: Mapping[str, str], medians: Mapping[str, float]) -> PendingJob:
    own = None if job.benchmark is None else job_seconds(Path(job.benchmark))
    median = medians.get(job.step)
    return PendingJob(
        job=job.name,
        step=job.step,
        outputs=job.outputs,
        causes=causes(job),
        follows=sorted({makers[path] for path in job.awaited if path in makers}),
        seconds=median if own is None else own,
        basis="job" if own is not None else "step" if median is not None else None,
    )


def _gone(job: Job) -> list[str]:
    """Outputs that are not there; a record that is missing beside its file is told as doubtful."""
    return [path for path in job.outputs if path in job.missing]


def _doubtful(jobs: Sequence[Job]) -> Iterator[tuple[str, list[Cause]]]:
    for job in jobs:
        if job.to_run or _gone(job):
            continue
        try:
            differing = differences(job)
        except LpstepsError as error:
            differing = [Cause("record", str(error))]
        else:
            lost = [path for path in job.missing if path.endswith(RECORD_SUFFIX)]
            differing += [Cause("record", f"{path}: missing") for path in lost]
        if differing:
            yield job.outputs[0], differing


def lines(status: Status) -> Iterator[str]:
    """Yield a status as lines of text: the sum, a table of the steps, and the reasons.

    Args:
        status: What to tell.
    """
    targets = ", ".join(status.targets)
    current = sum(map(len, status.current.values()))
    if status.pending:
        total = current + len(status.pending)
        yield f"{targets}: {len(status.pending)} of {total} jobs would run, {_cost(status)}"
        yield ""
        yield from _table(status)
        yield ""
        yield from _reasons(status.pending)
    else:
        yield f"{targets}: up to date, {counted(current, 'job')}"
    if status.doubtful:
        yield ""
        yield (
            f"{len(status.doubtful)} files count as current although their records say otherwise; "
            "to make them again, name them to snakemake after --forcerun:"
        )
        for path, differing in status.doubtful.items():
            yield f"  {path} ({'; '.join(cause.heading for cause in differing)})"
    if status.gone:
        yield ""
        yield (
            "Gone, while what was made from them is there; to have them back, name them to "
            "snakemake as targets:"
        )
        yield from (f"  {path}" for path in status.gone[:MOST_NAMED])
        if len(status.gone) > MOST_NAMED:
            yield f"  and {len(status.gone) - MOST_NAMED} more"


def _cost(status: Status) -> str:
    measured = len(status.pending) - status.unmeasured
    if not measured:
        return "time unknown: no job of these steps has been measured yet"
    text = f"about {readable_duration(status.seconds)} one after another"
    return f"{text}, and {status.unmeasured} unmeasured" if status.unmeasured else text


def _table(status: Status) -> Iterator[str]:
    """Yield a table of the steps, those that take longest first."""
    steps = status.current.keys() | {job.step for job in status.pending}
    rows: list[tuple[float, str, int, str]] = []
    for step in steps:
        members = [job for job in status.pending if job.step == step]
        known = [job.seconds for job in members if job.seconds is not None]
        time = readable_duration(sum(known)) if len(known) == len(members) else "unknown"
        rows.append((-sum(known), step, len(members), time if members else ""))
    width = max(map(len, steps))
    yield f"{'step':<{width}}  {'up to date':>10}  {'to run':>6}  time"
    for _, step, count, time in sorted(rows):
        kept = len(status.current.get(step, []))
        yield f"{step:<{width}}  {kept:>10}  {count:>6}  {time}".rstrip()


def _reasons(pending: Sequence[PendingJob]) -> Iterator[str]:
    """Yield the reasons, each with the jobs that it applies to, then the number that follow."""
    yield "Why:"
    groups: dict[str, list[str]] = {}
    for job in pending:
        for cause in job.causes:
            groups.setdefault(cause.heading, []).append(job.job)
    for heading, names in groups.items():
        yield f"  {heading}"
        yield from (f"    {name}" for name in names[:MOST_NAMED])
        if len(names) > MOST_NAMED:
            yield f"    and {len(names) - MOST_NAMED} more"
    followers = sum(not job.causes for job in pending)
    if followers:
        yield f"  {followers} more because what they read is made anew"


def job_lines(status: Status) -> Iterator[str]:
    """Yield every pending job with its time and all its reasons as lines of text.

    Args:
        status: What to tell.
    """
    yield ""
    yield "Jobs:"
    for job in status.pending:
        time = "time unknown" if job.seconds is None else readable_duration(job.seconds)
        basis = {"job": " last time", "step": " as a median of the step", None: ""}[job.basis]
        yield f"  {job.job} ({time}{basis})"
        yield from (f"    {cause.heading}" for cause in job.causes)
        yield from (f"    after {name}" for name in job.follows)
