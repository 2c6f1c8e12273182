"""Which rows of a made-up run carry the marks of the best."""

from __future__ import annotations

import json
from typing import Any

import pytest
import report_example as example
from report_example import SMALL, variant_folder
from report_run import BEYOND, Run

from lpsteps.artifacts import write_json


def test_best_and_second_among_measured_pruned_rows(run: Run) -> None:
    def put(value: float, *variant: Any) -> None:
        run.change_score(run.score_path(SMALL, "piqa", *variant), value=value)
        run.change_score(run.score_path(SMALL, "novels", *variant), value=value)

    put(99.0)  # dense: out of the contest
    put(40.0, "sleb", 5, "none")
    put(50.0, "shortgpt", 5, "none")
    put(50.0, "llm-streamline", 5, "none")
    put(60.0, "shortgpt", 5, "linearpatch")
    put(45.0, "llm-streamline", 5, "linearpatch")
    cells = run.cells()
    marks = {
        name.split("/")[3]: cell["mark"]
        for name, cell in cells.items()
        if name.startswith("table01/smollm2-135m/")
        and name.endswith("/piqa")
        and "/n3/" not in name
    }
    assert marks == {
        "dense": None,
        "llm-pruner": None,
        "sleb": None,
        "shortgpt": "second",
        "llm-streamline": "second",
        "shortgpt+linearpatch": "best",
        "llm-streamline+linearpatch": None,
    }
    assert cells["table02/smollm2-135m/n5/sleb/novels"]["mark"] == "best"  # lower is better
    assert cells["table02/smollm2-135m/n5/llm-streamline+linearpatch/novels"]["mark"] == "second"
    assert {c["mark"] for c in cells.values() if c["column"] == "ratio"} == {None}
    assert {c["mark"] for c in cells.values() if c["status"] != "measured"} == {None}


def test_a_row_that_keeps_a_layer_says_so_and_is_not_the_best(run: Run) -> None:
    """LLM-Streamline with a layer takes out one layer less than the rows beside it."""
    before = run.cells()
    best = f"{BEYOND}/least-squares"
    assert before[f"{best}/share_closed"]["mark"] == "best"
    path = f"{variant_folder(SMALL, 'llm-streamline', 5, 'least-squares')}/patch.manifest.json"
    manifest = json.loads((run.folder / path).read_text())
    shape = [example.MODELS[SMALL]["layer_parameters"]]
    layer = {"replacements.layers.12.w": {"shape": shape, "dtype": "float32", "sha256": "0" * 64}}
    write_json(
        run.folder / path,
        manifest
        | {
            "parameters": 3_540_096,
            "foldable": True,
            "gaps": [],
            "replacements": ["layers.12.w"],
            "restored": [12],
            "tensors": layer,
        },
    )
    payload = run.build()
    cells = {cell["id"]: cell for cell in payload["cells"]}
    marks = {row: cells[f"{BEYOND}/{row}/share_closed"]["mark"] for row in ("linearpatch", "lora")}
    assert cells[f"{best}/share_closed"]["mark"] is None
    assert cells[f"{BEYOND}/streamline-ffn/share_closed"]["mark"] == "best"
    assert marks == {"linearpatch": "second", "lora": None}
    ratio = cells[f"{best}/ratio"]
    assert ratio["value"] == pytest.approx(100 * 4 * 3_540_096 / 134_515_008)
    assert ratio["note"].endswith("parameters; keeps 1 retrained layer")
    assert cells[f"{best}/parameters_added"]["note"] is None
    assert cells[f"{best}/foldable"]["text"] == "yes"
    [table] = [table for table in payload["tables"] if table["id"] == "beyond"]
    notes = {
        row["id"]: row["note"]
        for section in table["sections"]
        if (section["model"], section["n"]) == (SMALL, 5)
        for row in section["rows"]
    }
    assert notes["least-squares"] == "keeps 1 retrained layer" and notes["linearpatch"] is None
