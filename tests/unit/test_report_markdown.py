"""The tables as Markdown: what is measured is there, and nothing breaks out of a cell."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lpsteps.report.markdown import tables_markdown


@pytest.fixture(scope="module")
def payload(built_tables: Path) -> Any:
    return json.loads(built_tables.read_text())


def rows(text: str) -> list[list[str]]:
    """The cells of every table line, split at bars that are not escaped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line.replace("\\|", "").strip("|").split("|") for line in lines]


def test_it_names_the_commit_or_says_that_it_is_not_known(payload: Any) -> None:
    assert "built at commit `abc123`, scored in float32." in tables_markdown(payload, "abc123")
    assert "built at a commit that is not known, scored" in tables_markdown(payload, None)
    untold = payload | {"scores": {}}
    assert "built at commit `abc123`. " in tables_markdown(untold, "abc123")


def test_it_names_the_settings_given_beside_the_profile(payload: Any) -> None:
    run = payload["run"] | {"overrides": {"seed": 7}}
    text = tables_markdown(payload | {"run": run}, None)
    assert "Profile `config/config.yaml` with `--config seed=7`, built at" in text


def test_each_measured_number_stands_there_with_its_error(payload: Any) -> None:
    text = tables_markdown(payload, None)
    [cell] = [
        cell
        for cell in payload["cells"]
        if cell["id"] == "table02/smollm2-135m/n5/llm-streamline+linearpatch/novels"
    ]
    assert cell["status"] == "measured" and cell["stderr"] is not None
    plain = text.replace("*", "")
    assert f"{cell['text']} ({cell['stderr']:.2f})" in plain


def test_a_printed_number_stands_beside_the_measured_one_and_never_alone(payload: Any) -> None:
    text = tables_markdown(payload, None)
    beside = [
        cell
        for cell in payload["cells"]
        if cell["status"] == "measured" and isinstance(cell["published"], float)
    ]
    assert beside and all(f"paper {cell['published_text']}" in text for cell in beside)
    assert "LLaMA-2-13B" in json.dumps(payload) and "LLaMA-2-13B" not in text


def test_columns_without_a_value_are_named_with_the_reason(payload: Any) -> None:
    text = tables_markdown(payload, None)
    assert "- WSC: WSC273 is not in the embedded data" in text
    heads = [cells for cells in rows(text) if cells[0].strip() == "Removed"]
    assert heads and not any(" WSC " in cells for cells in heads)


def test_all_lines_of_a_table_have_as_many_cells(payload: Any) -> None:
    hostile = copy.deepcopy(payload)
    for table in hostile["tables"]:
        table["title"] = "# <b> | `x`"
        for section in table["sections"]:
            for row in section["rows"]:
                row["label"] = "a|b\n| c *d* <script>"
    text = tables_markdown(hostile, None)
    assert "<script>" not in text.replace("\\<script\\>", "")
    width = 0
    for cells in rows(text):
        width = len(cells) if cells[0].strip() == "Removed" else width
        assert len(cells) == width


def test_rows_are_named_with_the_group_of_their_own(payload: Any) -> None:
    grouped = copy.deepcopy(payload)
    (table,) = (table for table in grouped["tables"] if table["id"] == "table02")
    measured = [section for section in table["sections"] if section["kind"] == "measured"]
    assert len({section["n"] for section in measured}) > 2
    for section in measured:
        for place, row in enumerate(section["rows"]):
            row["label"], row["group"] = f"L{place}", "G" if place in (1, 2) else ""
    (text,) = (
        part for part in tables_markdown(grouped, None).split("## ") if part.startswith("Table 2:")
    )
    names = [cells[1].strip() for cells in rows(text)]
    assert names.count("L0") > 1 and "L1 (G)" in names and "L4" in names
    assert not any(f"L{place} (G)" in text for place in (0, 3, 4))
