"""Where and with which code the numbers of a page were measured, from the records of its files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lpsteps.provenance import Lineage

_GIB = 2**30


def measured_with(lineage: Lineage, paths: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the commits and machines of the records of some files.

    A page whose files were made over time names several commits. The days are those of the commits:
    when the files were made stands in their records alone, so that two runs of one commit give the
    same bytes.

    Args:
        lineage: Verifies the files; those with a problem are left out.
        paths: The measured files.

    Returns:
        ``commits`` with commit, date (of the commit, empty where a record does not tell) and dirty
        (whether some file was made with uncommitted changes), by date; ``machines`` with processor,
        cores, memory in GiB and, where there was one, gpu.
    """
    records = [
        artifact.record or {}
        for path in paths
        if lineage.problem(path) is None and (artifact := lineage.artifacts.get(path)) is not None
    ]
    dirty: dict[tuple[str, str], bool] = {}
    machines: dict[str, dict[str, Any]] = {}
    for record in records:
        git, machine = record.get("git", {}), record.get("machine", {})
        if git:
            commit = (git.get("date", ""), git["commit"])
            dirty[commit] = dirty.get(commit, False) or git["dirty"]
        if machine:
            facts = {
                "processor": machine["processor"],
                "cores": machine["cores"],
                "memory_gib": round(machine.get("memory_bytes", 0) / _GIB),
                **({"gpu": machine["gpu"]} if "gpu" in machine else {}),
            }
            machines[str(facts)] = facts
    return {
        "commits": [
            {"commit": commit, "date": date, "dirty": dirty[date, commit]}
            for date, commit in sorted(dirty)
        ],
        "machines": [machines[name] for name in sorted(machines)],
    }
