"""Why a job would run again, in words: what is gone or what differs from its record.

Snakemake decides which jobs run (:mod:`lpsteps.dry_run`). It compares the parameters of a rule as
text; the record beside an output says which setting or which module differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lpsteps.dry_run import Job
from lpsteps.errors import LpstepsError
from lpsteps.provenance import read_record

_LONGEST_VALUE = 40
_NOTHING = object()

Kind = Literal[
    "missing",
    "unfinished",
    "content",
    "inputs",
    "code",
    "setting",
    "software",
    "command",
    "record",
]


@dataclass(frozen=True)
class Cause:
    """One reason of a job's own to run, apart from jobs in front of it that run.

    Attributes:
        kind: What it is about.

            ==========  =========================================================
            missing     an output is not there
            unfinished  an interrupted run left it half made
            content     an input has another content
            inputs      it reads other files
            code        a module that its program imports was edited
            setting     a setting in its ``spec`` differs, or in what a rule without a step
                        program writes
            software    other package versions are pinned or installed
            command     the command line differs in something else
            record      there is no record that would tell what differs
            ==========  =========================================================
        detail: The files, the modules, or the setting with both values.
    """

    kind: Kind
    detail: str

    @property
    def heading(self) -> str:
        """The cause in words, the same for all jobs that share it."""
        shared = self.kind in ("missing", "unfinished")
        return _WORDS[self.kind] if shared else f"{_WORDS[self.kind]}: {self.detail}"


_WORDS: dict[Kind, str] = {
    "missing": "not there yet",
    "unfinished": "left half made by an interrupted run",
    "content": "content changed",
    "inputs": "other input files",
    "code": "code changed",
    "setting": "setting changed",
    "software": "software changed",
    "command": "command changed",
    "record": "no record to go by",
}


def causes(job: Job) -> list[Cause]:
    """Return why a job would run, other than that jobs in front of it do.

    Args:
        job: A job that Snakemake would run.
    """
    found: list[Cause] = []
    if job.missing:
        found.append(Cause("missing", ", ".join(job.missing)))
    if job.unfinished:
        found.append(Cause("unfinished", job.outputs[0]))
    if job.updated:
        found.append(Cause("content", ", ".join(job.updated)))
    if job.added or job.removed:
        files = [f"+{path}" for path in job.added] + [f"-{path}" for path in job.removed]
        found.append(Cause("inputs", ", ".join(files)))
    found += _changed_params(job)
    if "rule" in job.changed:
        found.append(Cause("command", "the text of the rule"))
    if "software" in job.changed:
        found.append(Cause("software", "the environment of the rule"))
    return found


def _changed_params(job: Job) -> list[Cause]:
    """Compare with the record, also where Snakemake has not: it stops at the first reason."""
    changed = "params" in job.changed
    if "code" not in job.params:
        return [Cause("setting", f"what {job.outputs[0]} lists")] if changed else []
    try:
        differing = differences(job)
    except LpstepsError as error:
        return [Cause("record", str(error))] if changed else []
    # What the record has no word of: paths among the arguments.
    return [Cause("command", "its arguments")] if changed and not differing else differing


def differences(job: Job) -> list[Cause]:
    """Return where the record of a job's output differs from what the job would run with now.

    What a rule writes without a step program has no record, and so no differences. Settings that go
    to a step program through a file are no params of its rule; that file is one of its inputs.

    Raises:
        LpstepsError: There is no readable record.
    """
    if "code" not in job.params:
        return []
    record = read_record(Path(job.outputs[0]))
    found: list[Cause] = []
    modules = _differing_keys(record["code"], job.params["code"])
    if modules:
        found.append(Cause("code", ", ".join(modules)))
    if "spec" in job.params:
        texts = _setting_texts(record["spec"], job.params["spec"])
        found += [Cause("setting", text) for text in texts]
    if "env" in job.params and record["environment"] != job.params["env"]:
        found.append(Cause("software", "requirements.lock"))
    return found


def _differing_keys(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def _setting_texts(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield ``path: value before -> value now`` for all leaves in which two settings differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            path = f"{where}.{key}" if where else key
            yield from _setting_texts(before.get(key, _NOTHING), now.get(key, _NOTHING), path)
    elif before is _NOTHING or now is _NOTHING or before != now:
        yield f"{where}: {_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "(none)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
