"""What the page keeps of its cells says the same as `tables.json`, put together again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lpsteps.report.panel_data import column_titles, difference_text, panel_data


@pytest.fixture(scope="module")
def payload(built_tables: Path) -> Any:
    return json.loads(built_tables.read_text())


def unpacked(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A cell as `data.js` puts it together, in the words of `tables.json`."""
    key, _, column = name.rpartition("/")
    number = next(index for index, row in enumerate(data["rows"]) if row["key"] == key)
    own, row = data["cells"][number][column], data["rows"][number]

    def sentence(field: str) -> str | None:
        return data["texts"][own[field]] if field in own else None

    def versus(field: str) -> dict[str, Any] | None:
        if field not in own:
            return None
        place, label, text, test, apart, *other = own[field]
        return {
            "cell": f"{data['rows'][place]['key']}/{(other or [column])[0]}",
            "label": data["texts"][label],
            "text": text,
            "test": test,
            "told_apart": apart,
        }

    source = None
    if "source" in own:
        place, pointer = [*own["source"], "/value"][:2]
        entry = data["sources"][place]
        file = data["lineage"]["files"][entry["file"]] if "file" in entry else entry
        source = {"path": file["path"], "sha256": file["sha256"], "pointer": pointer}

    def part_of(part: str) -> str:
        other, _, name = part.rpartition("/")
        return f"{data['rows'][int(other)]['key'] if other else key}/{name}"

    return {
        "status": own.get("status", "measured"),
        "text": own.get("text", "\N{EN DASH}"),
        **{
            field: own.get(field)
            for field in (
                *("value", "stderr", "interval_text", "n", "total", "mark"),
                *("benchmarks_used", "benchmarks_wanted", "published", "published_text"),
            )
        },
        "limited": own.get("limited", False)
        or ("n" in own and "total" in own and own["n"] < own["total"]),
        **{f: sentence(f) for f in ("reason", "note", "published_note", "unjudged")},
        "verdict": own["verdict"][0] if "verdict" in own else None,
        "rule": data["texts"][own["verdict"][1]] if "verdict" in own else None,
        "difference": own.get("difference"),
        "variant": data["variants"][own["variant"]]["folder"] if "variant" in own else None,
        "parts": [part_of(part) for part in own.get("parts", [])],
        "versus_best": versus("versus_best"),
        "versus_unrepaired": versus("versus_unrepaired"),
        "source": source,
        "label": row["label"],
        "model": data["models"][row["model"]],
    }


def test_every_cell_comes_back_whole(payload: dict[str, Any]) -> None:
    data = json.loads(json.dumps(panel_data(payload)))
    labels = {
        name: (row["label"], section["title"])
        for table in payload["tables"]
        for section in table["sections"]
        for row in section["rows"]
        for name in row["cells"]
    }
    shown = ("cell", "label", "text", "test", "told_apart")
    for cell in payload["cells"]:
        found = unpacked(data, cell["id"])
        expected = {field: cell[field] for field in found if field in cell}
        expected |= {
            "verdict": cell["verdict"] and cell["verdict"]["word"],
            "rule": cell["verdict"] and cell["verdict"]["rule"],
            "difference": difference_text(cell),
            "label": labels[cell["id"]][0],
            "model": labels[cell["id"]][1],
            **{
                field: cell[field] and {name: cell[field][name] for name in shown}
                for field in ("versus_best", "versus_unrepaired")
            },
        }
        for field in ("reason", "note", "published_note", "unjudged"):
            expected[field] = cell[field] or None
        assert found == expected, cell["id"]
    assert len(payload["cells"]) > 1000


def test_settings_and_variants_of_a_score_are_kept_once(payload: dict[str, Any]) -> None:
    data = panel_data(payload)
    scores = [entry for entry in data["sources"] if "settings" in entry]
    named = {cell["source"]["path"] for cell in payload["cells"] if cell["source"]}
    assert len(scores) == len(named & payload["scores"].keys()) > 10 * len(data["settings"])
    for entry in scores:
        path = data["lineage"]["files"][entry["file"]]["path"]
        assert data["settings"][entry["settings"]] == payload["scores"][path]
    for variant in data["variants"]:
        folder = variant["folder"]
        assert variant == {"folder": folder, **payload["variants"][folder]}


def test_comparisons_keep_what_the_panel_shows(payload: dict[str, Any]) -> None:
    name = "beyond/smollm2-135m/n5/least-squares/share_closed"
    cell = next(cell for cell in payload["cells"] if cell["id"] == name)
    data = panel_data(payload)
    key, _, column = name.rpartition("/")
    number = next(index for index, row in enumerate(data["rows"]) if row["key"] == key)
    [comparison] = data["cells"][number][column]["comparisons"]
    [expected] = cell["comparisons"]
    assert comparison == {
        "cell": expected["cell"],
        "label": expected["label"],
        "share": expected["share"]["text"],
        "loss": expected["log_perplexity"]["text"],
    }
    assert data["rows"][number]["group"] == "Layers that LLM-Streamline removes"


def test_titles_that_repeat_name_their_group() -> None:
    columns = [
        {"id": "a", "title": "Avg", "group": "One"},
        {"id": "b", "title": "Avg", "group": "Two"},
        {"id": "c", "title": "Last", "group": "Two"},
    ]
    assert column_titles(columns) == {"a": "Avg (One)", "b": "Avg (Two)", "c": "Last"}
    columns[0]["group"] = ""  # such a column stands before all groups
    assert column_titles(columns) == {"a": "Avg", "b": "Avg (Two)", "c": "Last"}


@pytest.mark.parametrize(
    ("difference", "stderr", "expected"),
    [
        (-14.288, 6.25, "-14.29, standard error 6.25"),
        (0.5, None, "+0.50"),
        (2, None, 2),
        (None, None, None),
    ],
)
def test_a_difference_in_words(difference: Any, stderr: Any, expected: Any) -> None:
    assert difference_text({"difference": difference, "difference_stderr": stderr}) == expected


def test_the_row_of_the_dense_model_need_not_be_called_so(payload: Any) -> None:
    data = panel_data(payload)
    keys = {row["key"] for row in data["rows"]}
    assert data["dense"]["table02/smollm2-135m"] == "dense"
    assert all(f"{place}/n0/{row}" in keys for place, row in data["dense"].items())
    renamed = json.loads(json.dumps(payload).replace("/n0/dense/", "/n0/whole/"))
    for table in renamed["tables"]:
        for section in table["sections"]:
            for row in section["rows"]:
                row["id"] = "whole" if row["id"] == "dense" else row["id"]
    assert panel_data(renamed)["dense"]["table02/smollm2-135m"] == "whole"
