"""A width pruning through its rules: one entry and one row, beside all that was there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from project import PROFILE, snakemake, write_yaml

ROW = {"id": "narrow", "label": "Narrow", "selection": "narrow"}


def test_a_width_pruning_has_its_row_in_a_table(copy: Path):
    pytest.importorskip("torch_pruning")
    path = copy / "config/methods.yaml"
    methods = yaml.safe_load(path.read_text())
    params = {"windows": 2, "length": 16, "exempt_first": 1, "exempt_last": 1}
    methods["width_prunings"] = {
        "narrow": {"title": "Narrow", "method": "llm_pruner", "params": params}
    }
    write_yaml(path, methods)
    table = {
        "id": "width",
        "title": "Width",
        "caption": "Heads and channels in place of layers.",
        "columns": [
            {"id": "ratio", "title": "Ratio", "kind": "ratio", "unit": "percent"},
            {"id": "novels", "title": "Novels", "unit": "perplexity"},
        ],
        "rows": [{"id": "dense", "label": "Dense"}, ROW],
    }
    write_yaml(copy / "reports/tables/width.yaml", table)
    profile = yaml.safe_load((copy / PROFILE).read_text())
    profile["tables"]["width"] = {"tiny": [2]}
    profile["suites"] = {"perplexity": profile["suites"]["perplexity"]}
    write_yaml(copy / PROFILE, profile)
    run = snakemake(copy, "reports/tables.html")
    assert run.returncode == 0, run.stdout
    cells = {c["id"]: c for c in json.loads((copy / "reports/tables.json").read_text())["cells"]}
    ratio = cells["width/tiny/n2/narrow/ratio"]
    tiny = yaml.safe_load((copy / "config/tiny_definitions.yaml").read_text())["models"]["tiny"]
    channel = 3 * tiny["hidden_size"]
    removed = ratio["value"] * tiny["parameters"] / 100
    assert removed == pytest.approx(2 * tiny["layer_parameters"], abs=channel)
    folder = "results/tiny/calibration/wikipedia/width/narrow/n2"
    assert ratio["source"]["path"] == f"{folder}/width.manifest.json"
    novels = cells["width/tiny/n2/narrow/novels"]
    assert novels["variant"] == folder and novels["value"] > 1
    assert novels["value"] != cells["width/tiny/n0/dense/novels"]["value"]
