"""Means and retained performance of a made-up run, against values computed here by hand."""

from __future__ import annotations

import math

import pytest
import report_example as example
from report_example import QA, SMALL
from report_run import Run


def test_averages_are_over_the_tasks_that_were_scored(run: Run) -> None:
    cells = run.cells()
    prefix, dense = "table01/smollm2-135m/n5/sleb", "table01/smollm2-135m/n0/dense"
    own = [cells[f"{prefix}/{task}"] for task in QA]
    base = [cells[f"{dense}/{task}"] for task in QA]
    average, retained = cells[f"{prefix}/qa_avg"], cells[f"{prefix}/qa_rp"]
    assert average["value"] == pytest.approx(sum(cell["value"] for cell in own) / 7, rel=1e-14)
    assert average["stderr"] == pytest.approx(math.sqrt(7 * 6.25**2) / 7)
    assert (average["benchmarks_used"], average["benchmarks_wanted"]) == (7, 9)
    assert average["limited"] is True and average["n"] is None
    ratios = [100 * a["value"] / b["value"] for a, b in zip(own, base, strict=True)]
    assert retained["value"] == pytest.approx(sum(ratios) / 7, rel=1e-14)
    assert sorted(average["parts"]) == sorted(cell["id"] for cell in own)
    assert sorted(retained["parts"]) == sorted(cell["id"] for cell in own + base)
    assert cells[f"{dense}/qa_rp"]["value"] == 100.0


def test_a_mean_over_corpora_is_all_or_nothing(run: Run) -> None:
    cells = run.cells()
    full = cells["table02/smollm2-135m/n5/sleb/embedded_ppl_avg"]
    parts = [cells[f"table02/smollm2-135m/n5/sleb/{name}"]["value"] for name in example.TEXT]
    assert full["value"] == pytest.approx(sum(parts) / 3, rel=1e-14)
    none = cells["table02/smollm2-135m/n5/sleb/ppl_avg"]
    assert none["status"] == "missing" and none["value"] is None
    assert none["reason"].startswith(
        "needs WIKI-2, C4, PTB: WikiText-2 is not in the embedded data"
    )


def test_a_missing_score_takes_its_averages_along(run: Run) -> None:
    run.drop("scores", run.score_path(SMALL, "boolq", "sleb", 5, "none"))
    cells = run.cells()
    prefix = "table01/smollm2-135m/n5/sleb"
    assert cells[f"{prefix}/boolq"]["reason"] == "there is no score file for 'boolq'"
    for name in ("qa_avg", "qa_rp"):
        assert cells[f"{prefix}/{name}"]["status"] == "missing"
        assert cells[f"{prefix}/{name}"]["value"] is None
        assert "sleb/boolq, which is missing" in cells[f"{prefix}/{name}"]["reason"]
    assert cells[f"{prefix}/piqa"]["status"] == "measured"
    # Other rows stay over the same seven tasks.
    assert cells["table01/smollm2-135m/n5/shortgpt/qa_avg"]["benchmarks_used"] == 7


def test_a_missing_dense_score_takes_retained_performance_along(run: Run) -> None:
    run.drop("scores", run.score_path(SMALL, "copa"))
    cells = run.cells()
    assert cells["table01/smollm2-135m/n5/sleb/qa_avg"]["status"] == "measured"
    retained = cells["table01/smollm2-135m/n5/sleb/qa_rp"]
    assert retained["status"] == "missing" and "n0/dense/copa" in retained["reason"]


def test_a_dense_score_of_zero_is_no_denominator(run: Run) -> None:
    run.change_score(run.score_path(SMALL, "copa"), value=0.0)
    retained = run.cells()["table01/smollm2-135m/n5/sleb/qa_rp"]
    assert retained["status"] == "missing" and "dense/copa is 0" in retained["reason"]


def test_an_unverified_score_is_missing_and_so_is_what_rests_on_it(run: Run) -> None:
    path = run.score_path(SMALL, "piqa", "sleb", 5, "none")
    run.problems[path] = "the record does not match the file"
    cells = run.cells()
    for column in ("piqa", "qa_avg", "qa_rp"):
        cell = cells[f"table01/smollm2-135m/n5/sleb/{column}"]
        assert cell["status"] == "missing" and cell["value"] is None
        assert "the record does not match the file" in cell["reason"]
    assert cells["table01/smollm2-135m/n5/sleb/copa"]["status"] == "measured"
