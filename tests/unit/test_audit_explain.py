"""What `lpsteps why` prints of a cell; the audit itself is tested on a finished project."""

from __future__ import annotations

from typing import Any

import pytest

from lpsteps.audit import explain

CELL: dict[str, Any] = {
    "id": "t/m/n3/cut/share",
    "text": "58.3 %",
    "value": 58.3,
    "stderr": None,
    "interval": [52.1, 63.4],
    "interval_text": "[52.1, 63.4]",
    "n": None,
    "published": None,
    "parts": ["t/m/n3/cut/novels"],
    "source": None,
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, ["  95 % interval [52.1, 63.4] over the evaluation windows"]),
        ({"interval": None, "interval_text": None}, []),
    ],
)
def test_a_cell_with_an_interval_shows_it(changes: dict[str, Any], line: list[str]) -> None:
    assert list(explain(CELL | changes, {}, "config/config.yaml")) == [
        "t/m/n3/cut/share: 58.3 %",
        *line,
        "  computed from t/m/n3/cut/novels",
    ]


@pytest.mark.parametrize(
    ("profile", "option"),
    [
        ("config/config.yaml", ""),
        ("config/full.yaml", " --configfile config/full.yaml"),
        ("a.yaml, b.yaml", " --configfile a.yaml b.yaml"),
    ],
)
def test_a_file_is_made_again_with_its_profile(profile: str, option: str) -> None:
    """Another profile has other samples, so the file would be another one."""
    facts = {"sha256": "a" * 64, "bytes": 3, "rule": "calibrate", "code": "b", "target": "x.json"}
    cell = CELL | {"parts": [], "source": {"path": "x.json", "pointer": "/value"}}
    lines = list(explain(cell, {"x.json": facts | {"inputs": []}}, profile))
    assert f"    repeat with: snakemake --cores 1 --force x.json{option}" in lines
