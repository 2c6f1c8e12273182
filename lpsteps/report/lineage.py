"""The files behind the numbers, as the tables and the page carry them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lpsteps.artifacts import canonical_json, sha256_bytes
from lpsteps.provenance import Artifact, Lineage


def artifact_graph(lineage: Lineage, roots: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Describe every verified file behind some files, back to pinned downloads.

    No times and no facts about the machine: these stand in the records, and the tables are to be
    the same bytes on every run.

    Args:
        lineage: Verifies the files.
        roots: The files to start from; those that do not verify are left out.

    Returns:
        By path: sha256, bytes, the paths it was made from, and of the step that made it the rule,
        the settings, a digest of its code, and the file to ask Snakemake for to repeat it. A source
        file has no step.
    """
    graph: dict[str, dict[str, Any]] = {}
    for artifact in lineage.behind(roots):
        graph[str(artifact.path)] = {
            "sha256": artifact.sha256,
            "bytes": artifact.bytes,
            "inputs": [str(path) for path, _ in artifact.inputs],
            **_step(artifact),
        }
    return graph


def _step(artifact: Artifact) -> dict[str, Any]:
    record = artifact.record
    if record is None:
        return {}
    code = sha256_bytes(canonical_json(record["code"]).encode())
    return {
        "rule": record["rule"],
        "spec": record["spec"],
        "code": code[:16],
        "target": str(artifact.target),
    }
