"""The profile that an export is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpsteps.artifacts import write_json
from lpsteps.cli import _profile_of_page


def test_an_export_is_of_the_page_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another profile its scores would be made anew, on other samples."""
    monkeypatch.chdir(tmp_path)
    assert _profile_of_page() == Path("config/config.yaml")
    Path("reports").mkdir()
    write_json(Path("reports/tables.json"), {"run": {"profile": "config/full.yaml"}})
    assert _profile_of_page() == Path("config/config.yaml")  # It is not there.
    write_json(Path("reports/tables.json"), {})
    assert _profile_of_page() == Path("config/config.yaml")
    write_json(Path("reports/tables.json"), {"run": {"profile": "config/full.yaml"}})
    Path("config").mkdir()
    Path("config/full.yaml").write_text("{}")
    assert _profile_of_page() == Path("config/full.yaml")
