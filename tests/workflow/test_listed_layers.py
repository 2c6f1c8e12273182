"""Layers that are given by hand in the config, up to their row in a table."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from project import PROFILE, make_project, snakemake, write_yaml


def add(path: Path, **entries: object) -> None:
    """Replace or add keys of a YAML file."""
    write_yaml(path, yaml.safe_load(path.read_text()) | entries)


def test_layers_given_by_hand_have_their_row_in_the_table(tmp_path: Path):
    project = make_project(tmp_path)
    by_hand = {"title": "By hand", "metric": "listed_layers", "params": {"layers": [4, 1, 3]}}
    add(project / "config/methods.yaml", selections={"by-hand": by_hand})
    rows = [{"id": "mine", "label": "By hand", "selection": "by-hand"}]
    add(project / "reports/tables/table08.yaml", rows=rows)
    # As little as a page can show.
    tables = {"table08": {"tiny": [2, 3]}}
    add(project / PROFILE, tables=tables, figures={}, training_text=None)
    run = snakemake(project, "reports/tables.json")
    assert run.returncode == 0, run.stdout

    content = json.loads((project / "reports/tables.json").read_text())
    cells = {cell["id"]: cell for cell in content["cells"]}
    for n, layers in ((2, [4, 1]), (3, [4, 1, 3])):
        cell = cells[f"table08/tiny/n{n}/mine/layers"]
        assert cell["status"] == "measured"
        plan = json.loads((project / cell["source"]["path"]).read_text())
        assert plan["order"] == layers
        # Nothing was measured for them.
        folder = f"results/tiny/calibration/wikipedia/selection/by-hand/n{n}"
        assert cell["source"]["path"] == f"{folder}/plan.json"
    assert not list((project / "results").rglob("stats.parquet"))
