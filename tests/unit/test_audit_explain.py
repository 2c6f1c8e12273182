"""What `lpsteps why` prints of a cell; the audit itself is tested on a finished project."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from snakemake.cli import parse_config

from lpsteps.audit import explain
from lpsteps.profile_files import profile_option

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
        ("my own.yaml", " --configfile 'my own.yaml'"),
    ],
)
@pytest.mark.parametrize(
    ("overrides", "more"),
    [
        ({}, ""),
        ({"seed": 7, "calibration": "wikipedia-8"}, " --config calibration=wikipedia-8 seed=7"),
    ],
)
def test_a_file_is_made_again_with_its_profile(
    profile: str, option: str, overrides: dict[str, Any], more: str
) -> None:
    """Another profile has other samples, so the file would be another one."""
    facts = {"sha256": "a" * 64, "bytes": 3, "rule": "calibrate", "code": "b", "target": "x.json"}
    cell = CELL | {"parts": [], "source": {"path": "x.json", "pointer": "/value"}}
    lines = list(explain(cell, {"x.json": facts | {"inputs": []}}, profile, overrides))
    assert f"    repeat with: snakemake --cores 1 --force x.json{option}{more}" in lines


@pytest.mark.parametrize(
    "overrides",
    [
        {"seed": 7, "hub_data": True, "data_root": "/my data/x", "training_text": None},
        {"calibration": "wikipedia-8", "model_root": "my own/it's here", "gpu_gres": "gpu:a100"},
        {"tables": {"table02": {"smollm2-135m": ["3", "5"]}}, "window_length": 512},
    ],
)
def test_snakemake_reads_the_same_settings_again(overrides: dict[str, Any]) -> None:
    words = shlex.split(profile_option("config/config.yaml", overrides))
    assert words[0] == "--config"
    assert parse_config(words[1:]) == overrides
