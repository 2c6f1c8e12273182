"""Verdicts on both sides of each bound, and what a run with printed counterparts makes of them."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from report_example import LARGE, variant_folder

from lpsteps.artifacts import write_json
from lpsteps.provenance import Lineage
from lpsteps.report.definitions import Column
from lpsteps.report.summary import summary_view, table_line
from lpsteps.report.tables import derive_tables
from lpsteps.report.verdicts import (
    accuracy_error,
    judge,
    judge_accuracy,
    judge_exact,
    judge_layers,
    judge_perplexity,
    last_digit,
    root_reason,
)


@pytest.mark.parametrize(
    ("text", "unit"), [("61.24", 0.01), ("68.00", 0.01), ("7.5", 0.1), ("12", 1), ("1.2e3", 100)]
)
def test_the_unit_of_the_last_printed_digit(text: str, unit: float) -> None:
    assert last_digit(text) == pytest.approx(unit)


def test_the_larger_error_counts() -> None:
    assert accuracy_error(3.0, 50.0, 100) == pytest.approx(5.0)  # sqrt(50 * 50 / 100)
    assert accuracy_error(6.0, 50.0, 100) == 6.0
    # A score of 100 % has no spread of its own.
    assert accuracy_error(0.0, 80.0, 16) == pytest.approx(10.0)
    assert accuracy_error(None, 80.0, 1) == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("difference", "limited", "word"),
    [
        (0.0, False, "reproduced"),
        (-2.005, False, "reproduced"),
        (2.006, False, "close"),
        (-4.005, False, "close"),
        (4.006, False, "differs"),
        (0.0, True, "undecided"),
        (4.005, True, "undecided"),
        (-4.006, True, "differs"),
    ],
)
def test_accuracies_go_by_their_standard_error(difference: float, limited: bool, word: str) -> None:
    verdict = judge_accuracy(difference, 2.0, 0.01, limited)
    assert verdict.word == word
    assert "2.00" in verdict.rule and ("limited" in verdict.rule) == (word == "undecided")


@pytest.mark.parametrize(
    ("difference", "stderr", "limited", "word"),
    [
        (-0.205, 9.0, False, "reproduced"),  # 1 % of 20, and half of 0.01
        (0.206, 9.0, False, "close"),
        (1.005, 9.0, False, "close"),
        (1.006, 9.0, False, "differs"),  # whatever the standard error is
        (0.0, 0.1, True, "undecided"),
        (1.005, 0.1, True, "undecided"),
        (1.006, 0.1, True, "differs"),
        (1.006, 0.6, True, "undecided"),
        (1.206, 0.6, True, "differs"),
        (9.0, None, True, "undecided"),
    ],
)
def test_perplexities_go_by_a_share_of_the_printed_value(
    difference: float, stderr: float | None, limited: bool, word: str
) -> None:
    assert judge_perplexity(difference, 20.0, stderr, 0.01, limited).word == word


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        (0.005, "reproduced"),
        (-0.0051, "close"),
        (0.205, "close"),
        (0.206, "differs"),
    ],
)
def test_numbers_without_a_sample_have_to_be_equal(difference: float, word: str) -> None:
    assert judge_exact(difference, 20.0, 0.01).word == word


@pytest.mark.parametrize(
    ("removed", "printed", "word"),
    [
        ([3, 1, 2], [1, 2, 3], "reproduced"),
        ([1, 2, 4], [1, 2, 3], "close"),
        ([1, 5, 4], [1, 2, 3], "differs"),
        ([4], [3], "differs"),
    ],
)
def test_layers_go_by_their_set(removed: list[int], printed: list[int], word: str) -> None:
    assert judge_layers(removed, printed).word == word


@pytest.mark.parametrize(
    ("printed", "measured", "n", "word"),
    [
        ("61.24", 60.60, 2376, "reproduced"),
        ("61.24", 59.60, 2376, "close"),
        ("61.24", 58.00, 2376, "differs"),
        ("61.24", 50.00, 64, "undecided"),
    ],
)
def test_the_examples_of_the_guide(printed: str, measured: float, n: int, word: str) -> None:
    column = Column(id="arc_easy", title="ARC-e", unit="percent")
    own = math.sqrt(measured * (100 - measured) / n)
    verdict, stderr = judge(column, measured, own, n, n < 2376, float(printed), printed)
    assert verdict is not None and verdict.word == word
    assert stderr == pytest.approx(own, rel=0.03)


def test_columns_have_their_rules() -> None:
    accuracy = Column(id="a", title="A", kind="mean", unit="percent", of=("x",))
    assert judge(accuracy, 50.0, None, None, False, 50.0, "50.00") == (None, None)
    perplexity = Column(id="p", title="P", unit="perplexity")
    verdict, stderr = judge(perplexity, 5.52, 0.3, 40, False, 5.47, "5.47")
    assert (verdict and verdict.word, stderr) == ("reproduced", 0.3)
    ratio = Column(id="r", title="R", kind="ratio", unit="percent")
    verdict, stderr = judge(ratio, 21.0249, None, None, False, 21.02, "21.02")
    assert (verdict and verdict.word, stderr) == ("reproduced", None)


def test_reasons_lead_to_their_root() -> None:
    root = "WSC273 is not in the embedded data; set data_root to a folder: /data"
    assert root_reason(root) == root
    through = f"rests on table01/m/n0/dense/qa_avg, which is missing: needs WSC, Race-h: {root}"
    assert root_reason(through) == root


class Run:
    """LLaMA-2-7B, with scores on whole splits where the test puts them."""

    def __init__(self, folder: Path, paths: dict[str, list[str]]) -> None:
        self.folder = folder
        self.inputs = [path for listed in paths.values() for path in listed]
        self.spec = example.spec({LARGE: [7]})

    def score(self, benchmark: str, value: float, stderr: float, *variant: Any) -> None:
        path = f"{variant_folder(LARGE, *variant)}/scores/{benchmark}.json"
        content = json.loads((self.folder / path).read_text())
        content |= {"value": value, "stderr": stderr, "limited": False, "total": content["n"]}
        write_json(self.folder / path, content)

    def score_as(self, benchmark: str, other: str, *variant: Any, **settings: Any) -> None:
        """Give a variant's score on one benchmark a second time, under another's name."""
        folder = self.folder / variant_folder(LARGE, *variant) / "scores"
        content = json.loads((folder / f"{benchmark}.json").read_text())
        content |= {"benchmark": other, "settings": content["settings"] | settings}
        write_json(folder / f"{other}.json", content)
        path = (folder / f"{other}.json").relative_to(self.folder).as_posix()
        self.inputs += [path] if path not in self.inputs else []

    def build(self) -> dict[str, Any]:
        reports = [
            *(f"reports/tables/{table}.yaml" for table in example.TABLES),
            *(f"reports/published/{table}.csv" for table in example.TABLES if table != "beyond"),
        ]
        inputs = [Path(path) for path in [*self.inputs, *reports]]
        return derive_tables(self.spec, inputs, Unchecked())


class Unchecked(Lineage):
    """Takes changed scores for good: these tests are about what follows from them."""

    def problem(self, path: Path) -> None:
        return None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    folder = tmp_path_factory.mktemp("verdicts")
    example.copy_reports(folder)
    return folder, example.write_run(folder, {LARGE: [7]})


@pytest.fixture
def run(
    written: tuple[Path, dict[str, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lpsteps.report.tables.artifact_graph", lambda *_: {})
    return Run(tmp_path, written[1])


PATCHED = ("shortgpt", 7, "linearpatch")
ROW = "table01/llama-2-7b/n7/shortgpt+linearpatch"


def test_printed_and_measured_meet_in_a_verdict(run: Run) -> None:
    run.score("arc_easy", 61.0, 1.0, *PATCHED)  # printed: 61.24
    run.score("piqa", 68.5, 0.5, *PATCHED)
    payload = run.build()
    cells = {cell["id"]: cell for cell in payload["cells"]}
    near = cells[f"{ROW}/arc_easy"]
    assert near["verdict"]["word"] == "reproduced"
    assert near["difference"] == pytest.approx(-0.24)
    printed_error = math.sqrt(61.24 * (100 - 61.24) / near["n"])
    assert near["difference_stderr"] == pytest.approx(max(1.0, printed_error))
    limited = cells[f"{ROW}/arc_challenge"]
    assert limited["limited"] and limited["verdict"]["word"] in ("undecided", "differs")
    assert cells[f"{ROW}/ratio"]["verdict"]["word"] == "reproduced"
    assert cells[f"{ROW}/ratio"]["difference_stderr"] is None
    average = cells[f"{ROW}/qa_avg"]
    assert average["verdict"] is None and average["difference"] is None
    assert average["unjudged"] == "over fewer benchmarks than the printed value"
    dense = cells["table01/llama-2-7b/n0/dense/ratio"]
    assert dense["verdict"] is None
    layers = cells["table08/llama-2-7b/n7/sleb/layers"]
    assert layers["difference"] == 1 and layers["verdict"]["word"] == "close"
    missing = [cell for cell in payload["cells"] if cell["status"] == "missing"]
    assert missing and all(cell["verdict"] is cell["unjudged"] is None for cell in missing)


def test_training_on_other_text_has_no_verdict(run: Run) -> None:
    run.score_as("novels", "wikitext2", "llm-streamline", 7, "linearpatch+ft")
    run.score_as("novels", "wikitext2", "llm-streamline", 7, "linearpatch")
    cells = {cell["id"]: cell for cell in run.build()["cells"]}
    tuned = cells["table04/llama-2-7b/n7/linearpatch+ft/wikitext2"]
    assert tuned["published"] == 8.09 and tuned["verdict"] is None and tuned["difference"] is None
    assert tuned["unjudged"] == "trained on another amount of text than the paper's row"
    assert cells["table04/llama-2-7b/n7/linearpatch/wikitext2"]["verdict"]


def test_calibration_on_other_text_has_no_verdict(run: Run) -> None:
    run.score("arc_easy", 61.0, 1.0, *PATCHED)
    run.spec["printed_calibration"] = False
    cells = {cell["id"]: cell for cell in run.build()["cells"]}
    for name in (f"{ROW}/arc_easy", "table08/llama-2-7b/n7/sleb/layers"):
        cell = cells[name]
        assert cell["status"] == "measured" and cell["published"] is not None
        assert (cell["verdict"], cell["difference"], cell["difference_stderr"]) == (None,) * 3
        assert cell["unjudged"] == "calibrated on other text than the paper's row"
    # What was removed and added has the same size, and the dense model reads no such text.
    assert cells[f"{ROW}/ratio"]["verdict"]["word"] == "reproduced"
    assert cells["table01/llama-2-7b/n0/dense/arc_challenge"]["verdict"]


def test_windows_of_another_length_have_no_verdict(run: Run) -> None:
    for benchmark in ("wikitext2", "c4", "ptb"):
        run.score_as("novels", benchmark, "llm-streamline", 7, "linearpatch")
    row = "table04/llama-2-7b/n7/linearpatch"
    cells = {cell["id"]: cell for cell in run.build()["cells"]}
    assert cells[f"{row}/c4"]["verdict"] and cells[f"{row}/ppl_avg"]["verdict"]
    run.score_as("novels", "c4", "llm-streamline", 7, "linearpatch", window_length=512)
    cells = {cell["id"]: cell for cell in run.build()["cells"]}
    assert cells[f"{row}/c4"]["unjudged"] == (
        "on windows of 512 tokens, the paper's have 2\u202f048"
    )
    mean = cells[f"{row}/ppl_avg"]
    assert mean["verdict"] is mean["difference"] is None
    assert mean["unjudged"].startswith("on windows of 512 and 2")
    assert cells[f"{row}/ptb"]["verdict"]


def test_the_summary_counts_every_cell_once(run: Run) -> None:
    run.score("arc_easy", 61.0, 1.0, *PATCHED)
    payload = run.build()
    whole = payload["run"]["summary"]
    hidden = {
        (table["id"], column["id"])
        for table in payload["tables"]
        for column in table["columns"]
        if not column["shown"]
    }
    cells = [cell for cell in payload["cells"] if (cell["table"], cell["column"]) not in hidden]
    assert 0 < len(cells) < len(payload["cells"])
    verdicts = [cell["verdict"]["word"] for cell in cells if cell["verdict"]]
    words = ("reproduced", "close", "differs", "undecided")
    assert {word: whole[word] for word in words} == {word: verdicts.count(word) for word in words}
    assert min(whole["reproduced"], whole["close"], whole["differs"]) >= 1
    assert whole["counterparts"] == len(verdicts) + sum(e["count"] for e in whole["unjudged"])
    assert whole["missing"] == sum(entry["count"] for entry in whole["reasons"])
    counts = [entry["count"] for entry in whole["reasons"]]
    assert counts == sorted(counts, reverse=True)
    assert not any("rests on" in entry["reason"] for entry in whole["reasons"])
    for name in ("measured", "missing", "counterparts", "reproduced", "printed_only"):
        assert whole[name] == sum(table["summary"][name] for table in payload["tables"])
    assert whole["measured"] == payload["run"]["counts"]["measured"]
    view = summary_view(whole)
    assert sum(count for count, _ in view.missing) == whole["missing"]
    assert f"{whole['counterparts']} measured cells stand beside" in view.beside
    assert [word for _, _, word in view.verdicts] == list(words)
    first = payload["tables"][0]["summary"]
    assert table_line(first).startswith(f"{first['measured']} measured; {first['missing']} missing")


def test_a_summary_without_printed_counterparts_reads_naturally() -> None:
    nothing = {"made": 0, "told_apart": 0}
    summary = {
        **dict.fromkeys(("measured", "missing", "counterparts", "noted", "printed_only"), 0),
        **dict.fromkeys(("reproduced", "close", "differs", "undecided"), 0),
        "unjudged": [],
        "reasons": [],
        "comparisons": {"versus_best": nothing, "versus_unrepaired": nothing},
    }
    view = summary_view(summary)
    assert view.beside == "The paper prints no number for what this run measures."
    assert view.verdicts == () and view.caveat == "" and view.comparisons == ""
    assert summary_view(summary | {"printed_only": 3}).beside == (
        "3 cells with a printed value, none of them measured."
    )
    assert table_line(summary) == "0 measured; 0 missing"


def test_a_note_on_the_printed_value_is_kept_and_counted(run: Run) -> None:
    path = Path("reports/published/table01.csv")
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    [line] = [
        line
        for line in lines
        if (line["model"], line["n"], line["recovery"], line["column"])
        == (LARGE, "7", "linearpatch", "arc_easy")
    ]
    line["note"] = "likely a misprint"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    payload = run.build()
    cell = next(cell for cell in payload["cells"] if cell["id"] == f"{ROW}/arc_easy")
    assert cell["published_note"] == "likely a misprint" and cell["verdict"]
    # The printed row stands for both selections.
    assert payload["run"]["summary"]["noted"] == 2
    assert "2 of" in summary_view(payload["run"]["summary"]).caveat
