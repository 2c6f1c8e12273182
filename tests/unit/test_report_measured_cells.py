"""Cells that show what one file of a made-up run says."""

from __future__ import annotations

from report_example import SMALL, variant_folder
from report_run import Run

from lpsteps.artifacts import sha256_file


def test_a_score_cell_says_where_it_stands(run: Run) -> None:
    path = run.score_path(SMALL, "piqa", "llm-streamline", 5, "linearpatch")
    run.change_score(path, value=41.123456789, stderr=6.1)
    cell = run.cells()["table01/smollm2-135m/n5/llm-streamline+linearpatch/piqa"]
    assert cell["status"] == "measured"
    assert cell["value"] == 41.123456789 and cell["text"] == "41.12"
    assert (cell["stderr"], cell["n"], cell["total"], cell["limited"]) == (6.1, 64, 1838, True)
    digest = sha256_file(run.folder / path)
    assert cell["source"] == {"path": path, "pointer": "/value", "sha256": digest}
    assert cell["variant"] == variant_folder(SMALL, "llm-streamline", 5, "linearpatch")
    assert cell["published"] is None and cell["difference"] is None and cell["reason"] is None


def test_ratio_counts_the_patch(run: Run) -> None:
    cells = run.cells()
    assert cells["table01/llama-2-7b/n7/shortgpt/ratio"]["text"] == "21.02"
    patched = cells["table01/llama-2-7b/n7/shortgpt+linearpatch/ratio"]
    assert patched["text"] == "20.78" and patched["source"]["pointer"] == "/parameters"
    assert abs(patched["difference"]) < 0.005
    assert cells["table01/llama-2-7b/n0/dense/ratio"]["value"] == 0.0


def test_layers_come_from_the_plan(run: Run) -> None:
    cells = run.cells()
    sleb = cells["table08/llama-2-7b/n7/sleb/layers"]
    assert sleb["value"] == [14, 23, 11, 24, 10, 27, 16]
    assert sleb["text"] == "14, 23, 11, 24, 10, 27, 16"
    assert sleb["difference"] == 1  # the paper removes 15 where this plan removes 16
    window = cells["table08/llama-2-7b/n7/shortgpt/layers"]
    assert window["text"] == "[23,30)" and window["published_text"] == "[23,30)"
    assert window["difference"] == 0
    assert window["source"]["pointer"] == "/order"
