"""Whether code that came with a model may run."""

from __future__ import annotations

from pathlib import Path

from lpsteps.artifacts import read_json


def trusts_code(folder: Path) -> bool:
    """Return whether a model's own code may run: what `fetch_model` wrote of its entry."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and read_json(manifest).get("trust_remote_code") is True
