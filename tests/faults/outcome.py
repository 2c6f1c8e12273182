"""What became of a disturbed run, and the checks that decide it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from faults.forked import Run, run_job
from lpsteps.provenance import SEAL, record_path, seal

Ending = Literal["finished", "continued", "told", "withheld", "not tried", "wrong"]

_ABORTED = "cannot allocate memory for thread-local data: ABORT\n"
"""Last words of the C library when it ends a process by itself."""


@dataclass(frozen=True)
class Outcome:
    """One fault that was tried.

    Attributes:
        fault: Kind of the fault.
        rule: Rule of the job that it hit, or what else.
        ending: ``finished``: the run ended as if nothing had been; ``continued``: it was
            interrupted, and the same command went on to the same bytes; ``told``: it stopped with
            one clear line, and the same command ended well once the fault was gone; ``withheld``:
            the tables show no number that rests on the fault, and say so; ``wrong``: anything else.
        detail: For ``wrong`` what is wrong, for ``told`` what it told.
    """

    fault: str
    rule: str
    ending: Ending
    detail: str = ""


class Sandbox:
    """A project whose results are known, so that every other byte shows.

    Attributes:
        root: The project.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.expected = {
            str(path.relative_to(root)): path.read_bytes()
            for folder in ("resources", "results", "reports")
            for path in sorted((root / folder).rglob("*"))
            if path.is_file()
        }

    def restore(self) -> None:
        """Put every result back, and remove what does not belong there."""
        for folder in ("resources", "results", "reports"):
            for path in sorted((self.root / folder).rglob("*"), reverse=True):
                if path.is_file() and str(path.relative_to(self.root)) not in self.expected:
                    path.unlink()
        for name, content in self.expected.items():
            path = self.root / name
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_bytes(content)

    def remove_outputs(self, job: dict[str, Any]) -> None:
        """Make a job look as if it had never run."""
        for name in outputs(job):
            (self.root / name).unlink(missing_ok=True)
            record_path(self.root / name).unlink(missing_ok=True)

    def false_outputs(self, job: dict[str, Any]) -> list[str]:
        """Outputs of a job that are there under their own names with other bytes than they must.

        A record that is there must be whole, and speak of nothing but the right bytes.
        """
        found = []
        for name in outputs(job):
            path = self.root / name
            if path.is_file() and path.read_bytes() != self.expected[name]:
                found.append(name)
            record = record_path(path)
            if record.is_file() and not _is_true(record, job):
                found.append(str(record.relative_to(self.root)))
        return found

    def other_results_changed(self, job: dict[str, Any]) -> list[str]:
        """Results of other jobs that changed or are gone; records hold times, so each run's differ."""
        own = {*outputs(job), *(f"{name}.record.json" for name in outputs(job))}
        return [
            name
            for name, content in self.expected.items()
            if name not in own
            and not ((self.root / name).is_file() and _same(self.root / name, content))
        ]

    def leftovers(self) -> list[str]:
        """Temporary files that are still there."""
        return [
            str(path.relative_to(self.root))
            for folder in ("resources", "results", "reports")
            for path in (self.root / folder).rglob(".*")
            if path.name.startswith((".partial-", ".wheel-"))
        ]


def _same(path: Path, content: bytes) -> bool:
    return path.name.endswith(".record.json") or path.read_bytes() == content


def outputs(job: dict[str, Any]) -> list[str]:
    """Paths of a job's outputs."""
    return [entry["path"] for entry in job["outputs"]]


def _is_true(record: Path, job: dict[str, Any]) -> bool:
    try:
        content = json.loads(record.read_bytes())
    except ValueError:
        return False
    hashes = {entry["path"]: entry["sha256"] for entry in content["outputs"]}
    right = {entry["path"]: entry["sha256"] for entry in job["outputs"]}
    return bool(seal(content)[SEAL] == content[SEAL] and hashes == right)


def judge(fault: str, job: dict[str, Any], run: Run, sandbox: Sandbox) -> Outcome:
    """Decide what became of a disturbed run: look at what it left, then run the same command."""
    problems = _problems(job, run, sandbox)
    if run.status == 0:
        ending: Ending = "finished"
    elif run.status < 0 or run.output.endswith(_ABORTED):
        ending = "continued"
    else:
        ending = "told"
        if not run.told:
            problems.append(f"ended with status {run.status} and printed {run.output[-400:]!r}")
        if sandbox.leftovers():
            problems.append(f"left {sandbox.leftovers()} behind")
    if ending != "finished" and not problems:
        again = run_job(sandbox.root, job)
        problems = [] if again.status == 0 else [f"the same command then failed: {again.output!r}"]
        problems += _problems(job, again, sandbox)
        if sandbox.leftovers():
            problems.append(f"left {sandbox.leftovers()} behind")
    if problems:
        sandbox.restore()
        return Outcome(fault, job["rule"], "wrong", "; ".join(problems))
    return Outcome(fault, job["rule"], ending, run.output.strip())


def _problems(job: dict[str, Any], run: Run, sandbox: Sandbox) -> list[str]:
    problems = [f"{name} is false" for name in sandbox.false_outputs(job)]
    problems += [f"{name} was lost" for name in sandbox.other_results_changed(job)]
    if run.hung:
        problems.append(f"had not ended after {run.seconds:.0f} seconds")
    if "Traceback" in run.output:
        problems.append(f"printed a traceback: {run.output[-400:]!r}")
    if run.status == 0:
        absent = [name for name in outputs(job) if not (sandbox.root / name).is_file()]
        problems += [f"{name} was not written" for name in absent]
    return problems


def wrong(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that must not be."""
    return [outcome for outcome in outcomes if outcome.ending == "wrong"]
