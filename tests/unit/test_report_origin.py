"""The commits and machines that the page names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lpsteps.provenance import Artifact
from lpsteps.report.origin import measured_with


class Known:
    """A lineage of files whose records are given; None where the file does not verify."""

    def __init__(self, records: dict[str, dict[str, Any] | None]) -> None:
        self.artifacts = {
            Path(path): Artifact(Path(path), "0", 1, record, Path(path))
            for path, record in records.items()
        }

    def problem(self, path: Path) -> str | None:
        return None if self.artifacts[path].record is not None else "damaged"


def record(commit: str, date: str, dirty: bool, **machine: Any) -> dict[str, Any]:
    facts = {"processor": "P", "cores": 2, "memory_bytes": 24 * 2**30 + 5, "system": "S 1"}
    git = {"commit": commit, "date": date, "dirty": dirty}
    return {"git": git, "machine": facts | machine}


def test_commits_by_date_and_machines_once() -> None:
    lineage = Known(
        {
            "a": record("c2", "2026-02-02", False),
            "b": record("c1", "2026-01-01", True),
            "c": record("c1", "2026-01-01", False, system="S 2"),
            "d": record("c3", "2026-03-03", False, gpu="G"),
            "damaged": None,
            "outside": {"git": {}, "machine": {}},
        }
    )
    assert measured_with(lineage, [Path(path) for path in sorted(map(str, lineage.artifacts))]) == {  # type: ignore[arg-type]
        "commits": [
            {"commit": "c1", "date": "2026-01-01", "dirty": True},
            {"commit": "c2", "date": "2026-02-02", "dirty": False},
            {"commit": "c3", "date": "2026-03-03", "dirty": False},
        ],
        "machines": [
            {"processor": "P", "cores": 2, "memory_gib": 24, "gpu": "G"},
            {"processor": "P", "cores": 2, "memory_gib": 24},
        ],
    }


def test_a_source_file_has_no_origin() -> None:
    lineage = Known({"a": {}})
    assert measured_with(lineage, [Path("a")]) == {"commits": [], "machines": []}  # type: ignore[arg-type]
