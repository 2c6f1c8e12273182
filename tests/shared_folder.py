"""Where the workers of one test run keep what they make once and share."""

from __future__ import annotations

from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, worker: str) -> Path:
    """The temporary folder of the whole test run, for its only process or for a worker of xdist."""
    own = factory.getbasetemp()
    return own if worker == "master" else own.parent
