"""Shares closed in a made-up run, against plain loops."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import report_example as example
from report_example import SMALL
from report_run import BEYOND, Run

from lpsteps.artifacts import write_json
from lpsteps.report.bootstrap import FEWEST_WINDOWS
from lpsteps.report.table_csv import table_csv


def losses(run: Run, benchmark: str, *variant: Any) -> list[float]:
    path = run.folder / run.score_path(SMALL, benchmark, *variant)
    values: list[float] = json.loads(path.read_text())["samples"]["values"]
    return values


def test_share_closed_is_the_mean_over_the_corpora(run: Run) -> None:
    def log_perplexity(corpus: str, *variant: Any) -> float:
        values = losses(run, corpus, *variant)
        return sum(values) / len(values)

    cells = run.cells()
    shares = []
    for corpus in example.TEXT:
        dense = log_perplexity(corpus)
        pruned = log_perplexity(corpus, "llm-streamline", 5, "none")
        repaired = log_perplexity(corpus, "llm-streamline", 5, "linearpatch")
        shares.append((pruned - repaired) / (pruned - dense))
    cell = cells[f"{BEYOND}/linearpatch/share_closed"]
    assert cell["value"] == pytest.approx(100 * sum(shares) / 3, rel=1e-12)
    assert cell["text"] == f"{cell['value']:.1f}\u202f%"
    assert cell["source"] is None and cell["limited"] is True
    assert cell["parts"] == [
        f"beyond/smollm2-135m/{row}/{corpus}"
        for row in ("n5/linearpatch", "n5/pruned", "n0/dense")
        for corpus in example.TEXT
    ]
    low, high = cell["interval"]
    assert low < cell["value"] < high and high - low < 20
    assert cell["interval_text"] == f"[{low:.1f}, {high:.1f}]"
    for row, value in (("n5/pruned", 0.0), ("n0/dense", 100.0)):
        end = cells[f"beyond/smollm2-135m/{row}/share_closed"]
        assert (end["value"], end["interval"], end["note"]) == (value, None, "by definition")
    assert cells[f"{BEYOND}/least-squares/share_closed"]["mark"] == "best"
    assert cells[f"{BEYOND}/streamline-ffn/share_closed"]["mark"] == "second"


def test_shares_are_compared_on_the_same_windows(run: Run) -> None:
    """The interval of a difference is that of an explicit loop over resamples of the windows."""
    from lpsteps.report.bootstrap import RESAMPLES, SEED, draws

    cells = run.cells()
    [comparison] = cells[f"{BEYOND}/least-squares/share_closed"]["comparisons"]
    assert comparison["cell"] == f"{BEYOND}/linearpatch/share_closed"
    assert comparison["label"] == "LinearPatch"
    difference = (
        cells[f"{BEYOND}/least-squares/share_closed"]["value"]
        - cells[f"{BEYOND}/linearpatch/share_closed"]["value"]
    )
    assert comparison["share"]["value"] == pytest.approx(difference)
    shares, logs = [0.0] * RESAMPLES, [0.0] * RESAMPLES
    for number, corpus in enumerate(example.TEXT):
        dense, pruned, one, two = (
            losses(run, corpus, *variant)
            for variant in (
                (),
                ("llm-streamline", 5, "none"),
                ("llm-streamline", 5, "least-squares"),
                ("llm-streamline", 5, "linearpatch"),
            )
        )
        for index, counts in enumerate(draws(len(dense), number, RESAMPLES, SEED)):
            d, p, a, b = (
                sum(float(count) * value for count, value in zip(counts, values, strict=True))
                for values in (dense, pruned, one, two)
            )
            shares[index] += 100 * (b - a) / (p - d) / 3
            logs[index] += (a - b) / len(dense) / 3
    for name, resampled in (("share", shares), ("log_perplexity", logs)):
        found = comparison[name]
        within = [found["interval"][0] <= value <= found["interval"][1] for value in resampled]
        assert sum(within) / RESAMPLES == pytest.approx(0.95, abs=0.001)
        below = sum(value < found["interval"][0] for value in resampled)
        assert below / RESAMPLES == pytest.approx(0.025, abs=0.001)
    assert comparison["share"]["text"].startswith(f"{difference:+.1f} [")
    # A row is not compared with itself; of the two others, both are there.
    names = [c["label"] for c in cells[f"{BEYOND}/channel-scale/share_closed"]["comparisons"]]
    assert names == ["LinearPatch", "Ghosted Layers (least squares)"]


def test_scores_on_other_windows_are_not_compared(run: Run) -> None:
    path = run.score_path(SMALL, "novels", "llm-streamline", 5, "linearpatch")
    samples = json.loads((run.folder / path).read_text())["samples"]
    run.change_score(path, samples=samples | {"ids": [index + 1 for index in samples["ids"]]})
    cells = run.cells()
    cell = cells[f"{BEYOND}/linearpatch/share_closed"]
    assert cell["reason"] == "novels: the models were scored on different windows"
    [left] = cells[f"{BEYOND}/channel-scale/share_closed"]["comparisons"]
    assert left["label"] == "Ghosted Layers (least squares)"


def test_a_share_needs_a_gap(run: Run) -> None:
    run.change_score(run.score_path(SMALL, "novels", "llm-streamline", 5, "none"), value=20.0)
    cell = run.cells()[f"{BEYOND}/linearpatch/share_closed"]
    assert cell["status"] == "missing"
    assert cell["reason"] == "novels: the cut leaves no gap to close"


def test_a_share_without_its_ends_is_missing(run: Run) -> None:
    run.drop("scores", run.score_path(SMALL, "novels", "llm-streamline", 5, "none"))
    cells = run.cells()
    for row in ("linearpatch", "pruned"):
        assert cells[f"{BEYOND}/{row}/share_closed"]["reason"] == (
            f"rests on {BEYOND}/pruned/novels, which is missing: "
            "there is no score file for 'novels'"
        )
    assert cells["beyond/smollm2-135m/n3/linearpatch/share_closed"]["status"] == "measured"
    paper = cells[f"{BEYOND}/linearpatch/paper_share_closed"]
    assert paper["reason"].startswith("needs WIKI-2, C4, PTB: WikiText-2 is not in the embedded")


@pytest.mark.parametrize("windows", [1, FEWEST_WINDOWS - 1])
def test_few_windows_give_a_share_but_no_interval(run: Run, windows: int) -> None:
    for variant in ((), *(("llm-streamline", 5, name) for name in ("none", "linearpatch"))):
        path = run.score_path(SMALL, "novels", *variant)
        values = [losses(run, "novels", *variant)[0] + 0.1 * extra for extra in range(windows)]
        changes = {"n": windows, "samples": {"ids": list(range(windows)), "values": values}}
        content = json.loads((run.folder / path).read_text()) | changes
        write_json(run.folder / path, content | {"value": math.exp(sum(values) / windows)})
    cell = run.cells()[f"{BEYOND}/linearpatch/share_closed"]
    assert cell["status"] == "measured" and cell["interval"] is None
    assert cell["interval_text"] is None and cell["comparisons"] == []


def test_intervals_and_comparisons_are_in_the_csv(run: Run) -> None:
    import csv

    payload = run.build()
    lines = {line["id"]: line for line in csv.DictReader(table_csv(payload, "beyond").splitlines())}
    cells = {cell["id"]: cell for cell in payload["cells"]}
    name = f"{BEYOND}/linearpatch/share_closed"
    assert [float(lines[name][key]) for key in ("low", "high")] == cells[name]["interval"]
    assert json.loads(lines[name]["comparisons"]) == cells[name]["comparisons"]
    assert lines[f"{BEYOND}/linearpatch/novels"]["low"] == ""
    assert lines[f"{BEYOND}/linearpatch/foldable"]["value"] == "false"
    assert lines[f"{BEYOND}/linearpatch/parameters_added"]["value"] == "331776"
