"""The commands of a user, run in this process: planning, one step's program, `lpsteps`."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from project import PROFILE

from lpsteps.config import read_config
from lpsteps.errors import LpstepsError


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it printed."""

    status: int
    output: str


Command = Callable[[Path], Ended]
"""Runs in the project that it is given, which is the working directory."""


def plan(root: Path) -> Ended:
    """What the Snakefile does before there is any job: read and check the profile."""
    try:
        read_config(Path(PROFILE))
    except LpstepsError as error:
        return Ended(1, f"error: {error}\n")
    return Ended(0, "")


@cache
def jobs(root: Path) -> list[dict[str, Any]]:
    """The records of all jobs of a finished project, one for each job, in a stable order."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in sorted(root.rglob("*.record.json")):
        record = json.loads(path.read_text())
        found.setdefault(tuple(record["command"]), record)
    return list(found.values())


def job_of(root: Path, rule: str, having: str = "") -> dict[str, Any]:
    """The first job of a rule, or the first one whose command line has a word."""
    return next(
        job for job in jobs(root) if job["rule"] == rule and having in " ".join(job["command"])
    )


def run_module(module: str, arguments: Sequence[str]) -> Ended:
    """Run the main function of a step's module."""
    printed = io.StringIO()
    main = importlib.import_module(module).main
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            status = int(main(list(arguments)))
        except SystemExit as end:
            status = int(end.code or 0)
    return Ended(status, printed.getvalue())


@dataclass(frozen=True)
class Step:
    """A job of the finished project once more, with other settings if wanted.

    Attributes:
        rule: Its rule.
        having: A word of its command line, where the rule has several jobs.
        spec: Settings that replace the job's own.
        options: Command-line options that replace the job's own; None leaves one out.
    """

    rule: str
    having: str = ""
    spec: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, str | None], ...] = ()

    def __call__(self, root: Path) -> Ended:
        job = job_of(root, self.rule, self.having)
        arguments = with_options(job["command"][3:], dict(self.options))
        spec = json.dumps({**job["spec"], **dict(self.spec)})
        if "--spec" not in dict(self.options):
            arguments = with_options(arguments, {"--spec": spec})
        return run_module(job["module"], with_options(arguments, {"--log": None}))


def with_options(arguments: Sequence[str], changes: dict[str, str | None]) -> list[str]:
    """Command-line arguments with other values of some options; None leaves an option out."""
    kept: list[str] = []
    dropping = False
    for argument in arguments:
        if argument.startswith("--"):
            dropping = argument in changes
        if not dropping:
            kept.append(argument)
    for option, value in changes.items():
        if value is not None:
            kept += [option, value]
    return kept


@dataclass(frozen=True)
class Lpsteps:
    """The command `lpsteps` with arguments."""

    arguments: tuple[str, ...]

    def __call__(self, root: Path) -> Ended:
        from lpsteps.cli import main

        printed = io.StringIO()
        before, sys.argv = sys.argv, ["lpsteps", *self.arguments]
        try:
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
                main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.argv = before
        return Ended(status, printed.getvalue())
