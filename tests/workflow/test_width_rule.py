"""A width pruning through its rules: one entry and one row, beside all that was there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml


def test_a_width_pruning_has_its_row_in_a_table(finished: Path):
    cells = {
        c["id"]: c for c in json.loads((finished / "reports/tables.json").read_text())["cells"]
    }
    ratio = cells["rivals/tiny/n2/narrow/ratio"]
    tiny = yaml.safe_load((finished / "config/tiny_definitions.yaml").read_text())["models"]["tiny"]
    channel = 3 * tiny["hidden_size"]
    removed = ratio["value"] * tiny["parameters"] / 100
    assert removed == pytest.approx(2 * tiny["layer_parameters"], abs=channel)
    folder = "results/tiny/calibration/wikipedia/width/narrow/n2"
    assert ratio["source"]["path"] == f"{folder}/width.manifest.json"
    novels = cells["rivals/tiny/n2/narrow/novels"]
    assert novels["variant"] == folder and novels["value"] > 1
    assert novels["value"] != cells["table02/tiny/n0/dense/novels"]["value"]
