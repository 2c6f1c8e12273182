"""Ask Snakemake which jobs it would run and why, as data.

``python -m lpsteps.dry_run PLAN ARGUMENTS...`` is ``snakemake --dry-run ARGUMENTS...`` with the
profile and the environment variables that Snakemake itself reads, and writes to the file PLAN what
that prints for people. It is a program of its own because Snakemake and the Snakefile change the
process that they run in.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snakemake import cli
from snakemake.exceptions import print_exception
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from lpsteps.errors import LpstepsError
from lpsteps.provenance import RECORD_SUFFIX
from lpsteps.runtime import step_of

_RECORDED = ("spec", "code", "env")


@dataclass(frozen=True)
class Job:
    """One job behind the targets, as Snakemake sees it.

    Attributes:
        name: Its log file without folder and suffix, which holds the step and all wildcards; the
            rule's name for one without a log.
        step: The program that it runs.
        outputs: Files that it writes, the records beside them not among these.
        benchmark: File with the time that it took last, None for a rule without one.
        params: What it would run with now and what its record holds of the last run: the settings
            ``spec``, the digests ``code`` and ``env``, those that its rule has. A rule without
            ``code`` runs no step program, so its outputs have no record.
        to_run: Whether Snakemake would run it; the reasons are in what follows.
        missing: Outputs that are not there. Of a job that would not run, nothing needs them now.
        unfinished: Whether an interrupted run left it half made.
        updated: Inputs whose content is another one than at the last run.
        awaited: Inputs that another job of the plan makes first.
        added: Inputs that it had not at the last run.
        removed: Inputs that it had at the last run and has no more.
        changed: What else differs from the last run: ``params`` (settings, code digests, arguments
            of the command), ``rule`` (the text of its command) or ``software``.
    """

    name: str
    step: str
    outputs: list[str]
    benchmark: str | None
    params: dict[str, Any]
    to_run: bool
    missing: list[str]
    unfinished: bool
    updated: list[str]
    awaited: list[str]
    added: list[str]
    removed: list[str]
    changed: list[str]


class _Observer(logging.Filter):
    """Takes the graph from the events that ``--debug-dag`` logs, and lets errors pass only."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Any = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about one message of Snakemake."""
        if getattr(record, "event", None) == LogEvent.DEBUG_DAG and hasattr(record, "job"):
            self.graph = record.job.dag
        return record.levelno >= logging.ERROR


def _job(job: Any, graph: Any) -> Job:
    reason = graph.reason(job)
    rule = job.rule.name
    benchmark = None if job.benchmark is None else str(job.benchmark)
    changed = {
        "params": reason.params_changed,
        "rule": reason.code_changed,
        "software": reason.software_stack_changed,
    }
    # Snakemake itself looks for outputs only where no job in front of this one runs.
    absent = {str(path) for path in job.output if not Path(path).exists()}
    inputs = set(map(str, job.input))
    recorded = inputs
    if reason.input_changed:
        recorded = set(graph.workflow.persistence.input(job.output[0]) or [])
    return Job(
        name=str(Path(job.log[0]).relative_to("logs").with_suffix("")) if job.log else rule,
        step=rule if benchmark is None else step_of(Path(benchmark)),
        outputs=[str(path) for path in job.output if not str(path).endswith(RECORD_SUFFIX)],
        benchmark=benchmark,
        params={name: job.params[name] for name in _RECORDED if hasattr(job.params, name)},
        to_run=graph.needrun(job),
        missing=sorted(absent),
        # Snakemake forces what is marked as incomplete; nothing else is forced in a plain plan.
        unfinished=bool(reason.forced or reason.incomplete_output),
        updated=sorted(map(str, reason.updated_input - reason.updated_input_run)),
        awaited=sorted(map(str, reason.updated_input_run)),
        added=sorted(inputs - recorded),
        removed=sorted(recorded - inputs),
        changed=[name for name, differs in changed.items() if differs],
    )


def _planned_here(arguments: Sequence[str]) -> list[Job] | None:
    """Plan in this process; None where Snakemake cannot, which has said why by then."""
    observer = _Observer()
    logger.addFilter(observer)
    try:
        parser, options = cli.parse_args(["--dry-run", *arguments])
        options.debug_dag = True
        planned = cli.args_to_api(options, parser)
    # As Snakemake's own command does around the same two calls.
    except Exception as error:
        print_exception(error)
        planned = False
    if not planned:
        return None
    graph = observer.graph
    # Rules that only collect files write nothing.
    jobs = [_job(job, graph) for job in graph.jobs if job.output]
    return sorted(jobs, key=lambda job: job.name)


def plan(arguments: Sequence[str]) -> list[Job]:
    """Return all jobs behind the targets, sorted by name.

    Args:
        arguments: As after ``snakemake --dry-run``.

    Raises:
        LpstepsError: Snakemake cannot plan; what it says about that goes to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "lpsteps.dry_run", str(path), *arguments]
        # Snakemake prints to both, and to standard output what it says about a dry run.
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if run.returncode != 0:
            print(run.stdout, end="", file=sys.stderr)
            raise LpstepsError("snakemake cannot plan the run; the lines above say why")
        return [Job(**job) for job in json.loads(path.read_text(encoding="utf-8"))]


def main(arguments: Sequence[str]) -> int:
    """Write the plan to the file named first; the rest is for Snakemake."""
    jobs = _planned_here(arguments[1:])
    if jobs is None:
        return 1
    Path(arguments[0]).write_text(json.dumps([asdict(job) for job in jobs]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
