"""Printed values beside those of a made-up run."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_example import LARGE, ROOT, SMALL
from report_run import NOTE, OWN, Run, add_own_text, curve_path

from lpsteps.artifacts import read_parquet, sha256_file, write_parquet
from lpsteps.report.definitions import TableDefinition, load_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.payload import build_payload
from lpsteps.report.published import PublishedCell


def test_printed_value_and_difference_stand_beside_a_measured_one(run: Run) -> None:
    path = run.score_path(LARGE, "arc_easy", "shortgpt", 7, "linearpatch")
    run.change_score(path, value=60.0)
    cells = run.cells()
    cell = cells["table01/llama-2-7b/n7/shortgpt+linearpatch/arc_easy"]
    assert cell["published"] == 61.24 and cell["published_text"] == "61.24"
    assert cell["difference"] == pytest.approx(-1.24)
    # The collective row of the paper stands for both selections and is not repeated.
    assert cells["table01/llama-2-7b/n7/llm-streamline+linearpatch/arc_easy"]["published"] == 61.24
    assert "table01/llama-2-7b/n7/linearpatch/arc_easy" not in cells
    # Levels that the run does not have stay, as printed rows of their own.
    assert cells["table01/llama-2-7b/n9/linearpatch/arc_easy"]["status"] == "published"
    # The printed mean is over nine tasks, the measured one over seven: no difference.
    mean = cells["table01/llama-2-7b/n7/shortgpt/qa_avg"]
    assert mean["published"] == 60.59 and mean["difference"] is None


def test_a_published_cell_cites_its_line(run: Run) -> None:
    cell = run.cells()["table02/llama-3-8b/n7/sleb/c4"]
    path = Path(cell["source"]["path"])
    line = path.read_text().splitlines()[int(cell["source"]["pointer"].removeprefix("row=")) - 1]
    assert "llama-3-8b" in line and ",c4,16.76," in line
    assert cell["value"] == 16.76 and cell["text"] == "16.76" and cell["status"] == "published"
    assert cell["source"]["sha256"] == sha256_file(path)


def test_a_printed_value_stands_beside_the_profiles_calibration_alone(run: Run) -> None:
    own = add_own_text(run, "linearpatch")
    definition = load_table("table06", ROOT / "reports/tables")
    content = definition.model_dump()
    row = next(row for row in content["rows"] if row["recovery"] == "linearpatch")
    content["rows"] += ({**row, "id": "own", "calibration": OWN},)
    definition = TableDefinition.model_validate(content)
    spec = parse_build_spec(run.spec)
    files = [Path(path) for paths in run.paths.values() for path in paths]
    evidence = gather_evidence(spec, files, {})
    printed = PublishedCell(
        table="table06",
        row="printed",
        model=SMALL,
        model_title="Small",
        n=5,
        n_layers=30,
        label="LinearPatch",
        selections=("llm-streamline",),
        recovery="linearpatch",
        column="novels",
        text="20.00",
        unit="perplexity",
        note="",
        path="printed.csv",
        line=2,
    )
    payload = build_payload(spec, [definition], [printed], {"printed.csv": "0" * 64}, evidence)
    cells = {cell["id"]: cell for cell in payload["cells"]}
    usual = cells[f"table06/{SMALL}/n5/{row['id']}/novels"]
    assert usual["published"] == 20.0 and usual["difference"] is not None
    other = cells[f"table06/{SMALL}/n5/own/novels"]
    assert other["variant"] == own and other["status"] == "measured"
    assert (other["published"], other["difference"]) == (None, None)


def test_other_budgets_give_no_difference(run: Run) -> None:
    """The paper tunes on 10.24 million tokens."""
    name = "table04/llama-2-7b/n7/linearpatch+ft/wikitext2"
    run.score_as(LARGE, "novels", "wikitext2", "llm-streamline", 7, "linearpatch+ft")
    cell = run.cells()[name]
    assert cell["published"] == 8.09 and cell["difference"] is None
    assert cell["note"] == (
        f"{NOTE}; the paper's row was trained on 10.24\u202fM in one pass, "
        "so no difference is taken"
    )
    curve = run.folder / curve_path("linearpatch+ft", LARGE, 7)
    table = read_parquet(curve)
    last = table.num_rows - 1
    tokens = [round(10_240_000 * step / last) for step in range(last + 1)]
    table = table.set_column(table.column_names.index("tokens"), "tokens", [tokens])
    write_parquet(curve, table)
    cell = run.cells()[name]
    # As many tokens, but every one of them twice.
    assert cell["difference"] is None and "10.24\u202fM in one pass" in cell["note"]
    table = table.set_column(table.column_names.index("epoch"), "epoch", [[1] * (last + 1)])
    write_parquet(curve, table)
    cell = run.cells()[name]
    assert cell["difference"] == pytest.approx(cell["value"] - 8.09)
    assert (
        cell["note"].startswith("distilled on 10.24\u202fM tokens") and "paper" not in cell["note"]
    )


def test_as_much_training_on_other_text_gives_no_difference(run: Run) -> None:
    name = "table04/llama-2-7b/n7/linearpatch+ft/wikitext2"
    for recovery in ("linearpatch", "linearpatch+ft"):
        run.score_as(LARGE, "novels", "wikitext2", "llm-streamline", 7, recovery)
    curve = run.folder / curve_path("linearpatch+ft", LARGE, 7)
    table = read_parquet(curve)
    last = table.num_rows - 1
    tokens = [round(10_240_000 * step / last) for step in range(last + 1)]
    for column, values in (("tokens", tokens), ("epoch", [1] * (last + 1))):
        table = table.set_column(table.column_names.index(column), column, [values])
    write_parquet(curve, table)
    assert run.cells()[name]["difference"] is not None
    run.spec["printed_training_text"] = False
    cells = run.cells()
    tuned = cells[name]
    assert tuned["published"] == 8.09
    assert tuned["difference"] is tuned["verdict"] is None
    assert tuned["unjudged"] == "trained on other text than the paper's row"
    assert tuned["note"].endswith(
        "the paper's row was trained on other text, so no difference is taken"
    )
    # What is not trained does not read it.
    assert cells[name.replace("+ft", "")]["difference"] is not None


def test_an_unknown_budget_of_the_paper_gives_no_difference(run: Run) -> None:
    """It says on how many samples it tunes LinearPatch, not LLM-Streamline's network."""
    run.spec["recoveries"]["streamline-ffn+ft"] = run.spec["recoveries"].pop("linearpatch+ft")
    run.rename("linearpatch+ft", "streamline-ffn+ft")
    cell = run.cells()["table04/llama-2-7b/n7/streamline-ffn+ft/ratio"]
    # The number of parameters does not depend on the training.
    assert cell["published"] == 19.01 and cell["difference"] is not None
    run.score_as(LARGE, "novels", "wikitext2", "llm-streamline", 7, "streamline-ffn+ft")
    cell = run.cells()["table04/llama-2-7b/n7/streamline-ffn+ft/wikitext2"]
    assert cell["published"] == 9.6 and cell["difference"] is None
    assert cell["note"].endswith(
        "the paper's row was trained on a number that we do not know, so no difference is taken"
    )


def test_printed_numbers_of_samples_stand_beside_as_many(run: Run) -> None:
    [table] = [table for table in run.build()["tables"] if table["number"] == 11]
    [section] = [s for s in table["sections"] if (s["model"], s["n"]) == (LARGE, 7)]
    assert [(row["id"], row["kind"]) for row in section["rows"]] == [
        ("linearpatch", "measured"),
        ("samples-32", "measured"),
        ("samples-64", "measured"),
        ("samples-2500", "measured"),
        ("linearpatch+ft", "measured"),
        ("samples-7500", "measured"),
    ]
    cells = run.cells()
    assert cells[f"table11/{LARGE}/n7/linearpatch/wikitext2"]["published"] == 13.22
    assert cells[f"table11/{LARGE}/n7/samples-32/wikitext2"]["published"] is None
    theirs = cells[f"table11/{LARGE}/n7/samples-2500/target_storage"]
    assert (theirs["status"], theirs["published_text"]) == ("missing", "5G")
    assert theirs["reason"] == "needs 2500 windows of training text, which config/paper.yaml has"
    windows = cells[f"table11/{LARGE}/n7/samples-2500/distilled_windows"]
    assert (windows["value"], windows["published"]) == (None, 2500.0)


def test_as_many_samples_as_in_the_other_tables_stand_beside_the_papers(run: Run) -> None:
    cells = run.cells()
    whole = f"table11/{LARGE}/n7/linearpatch+ft"
    assert cells[f"{whole}/distilled_windows"]["published_text"] == "5000"
    assert cells[f"{whole}/wikitext2"]["published"] == 8.09
    accuracy = cells[f"{whole}/arc_easy"]
    assert (accuracy["published"], accuracy["difference"]) == (64.35, None)
    assert accuracy["unjudged"] == "trained on another amount of text than the paper's row"
