"""Inputs of jobs with random bits flipped, cut off at random places, empty, or gone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from faults.forked import Run, run_job
from faults.outcome import Ending, Outcome, Sandbox, outputs
from lpsteps.provenance import RECORD_SUFFIX, record_path

TABLES = "reports/tables.json"


def _flipped(content: bytes, generator: random.Random) -> bytes:
    flipped = bytearray(content)
    flipped[generator.randrange(len(flipped))] ^= 1 << generator.randrange(8)
    return bytes(flipped)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "input with one bit flipped": _flipped,
    "input cut off": lambda content, generator: content[: generator.randrange(len(content))],
    "input missing": lambda content, generator: None,
}


def damaged_inputs(
    sandbox: Sandbox, jobs: Sequence[dict[str, Any]], per_job: int, seed: int
) -> Iterator[Outcome]:
    """Run each job with random inputs damaged: it must tell, or give the right bytes all the same.

    Args:
        sandbox: The project.
        jobs: Records of the jobs.
        per_job: Inputs of each job to damage in each way; a record beside an input counts as one.
        seed: Chooses inputs, bits and places.
    """
    generator = random.Random(seed)
    for job in jobs:
        inputs = [entry["path"] for entry in job["inputs"]]
        # Templates and definitions are the user's to edit; their changes rebuild the page.
        names = [name for name in inputs if name in sandbox.expected and "reports/t" not in name]
        names += [str(record_path(sandbox.root / name).relative_to(sandbox.root)) for name in names]
        names = [name for name in names if sandbox.expected.get(name)]
        for fault, damage in DAMAGES.items():
            for name in generator.sample(names, min(per_job, len(names))):
                if damage(b"12", generator) is None and name.endswith(".record.json"):
                    continue
                yield _tried(sandbox, job, fault, name, damage(sandbox.expected[name], generator))


def _tried(
    sandbox: Sandbox, job: dict[str, Any], fault: str, name: str, content: bytes | None
) -> Outcome:
    path = sandbox.root / name
    sandbox.remove_outputs(job)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    run = run_job(sandbox.root, job)
    problems = _problems(sandbox, job, run)
    ending: Ending = "told" if run.status else "finished"
    if job["rule"] == "build_tables" and run.status == 0 and problems:
        problems = _not_withheld(sandbox, name)
        problems += [f"left {left} behind" for left in sandbox.leftovers()]
        ending = "withheld"
    path.unlink(missing_ok=True)
    path.write_bytes(sandbox.expected[name])
    if not problems:
        again = run_job(sandbox.root, job)
        problems = _problems(sandbox, job, again)
        if again.status != 0:
            problems.append(f"failed without the fault: {again.output!r}")
    if problems:
        sandbox.restore()
        return Outcome(fault, job["rule"], "wrong", f"{name}: {'; '.join(problems)}")
    return Outcome(fault, job["rule"], ending, run.output.strip())


def _not_withheld(sandbox: Sandbox, damaged: str) -> list[str]:
    """Say what is wrong with tables that were made from a damaged file.

    Each number must be the same as before or missing, and what is missing must name the file.
    """
    path = damaged.removesuffix(RECORD_SUFFIX)
    before = json.loads(sandbox.expected[TABLES])
    tables = json.loads((sandbox.root / TABLES).read_text())
    for old, new in zip(before["cells"], tables["cells"], strict=True):
        same = new["status"] == old["status"] and new["value"] == old["value"]
        if not same and (new["status"] != "missing" or new["value"] is not None):
            return [f"{new['id']}: {old['text']} became {new['text']}"]
        if not same and path not in new["reason"]:
            return [f"{new['id']}: is missing without {path} in its reason: {new['reason']}"]
    # A figure, which has no cells, says it as well.
    if not any(path in reason for reason in _reasons(tables)):
        return [f"no reason names {path}"]
    return []


def _reasons(payload: Any) -> Iterator[str]:
    """Yield everything that stands under a key `reason`."""
    if isinstance(payload, dict):
        if isinstance(payload.get("reason"), str):
            yield payload["reason"]
        payload = list(payload.values())
    if isinstance(payload, list):
        for item in payload:
            yield from _reasons(item)


def _problems(sandbox: Sandbox, job: dict[str, Any], run: Run) -> list[str]:
    problems = [f"{name} is false" for name in sandbox.false_outputs(job)]
    if run.status != 0 and not run.told:
        problems.append(f"ended with status {run.status} and printed {run.output[-400:]!r}")
    if run.status != 0 and any((sandbox.root / name).is_file() for name in outputs(job)):
        problems.append("failed, and yet left an output")
    if sandbox.leftovers():
        problems.append(f"left {sandbox.leftovers()} behind")
    return problems
