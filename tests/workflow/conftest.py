"""Fixtures of the workflow tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from finished_project import copy, finished, warm_python

__all__ = ["copy", "edit", "finished", "warm_python"]


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replace text that must be there exactly once or more in a file."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text, f"{path} has no {old!r}"
        path.write_text(text.replace(old, new))

    return replace
