"""The content of tables.json as a whole, and the input that it refuses."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import report_example as example
from report_example import LARGE, SMALL, variant_folder
from report_run import Run, curve_path

from lpsteps.artifacts import canonical_json, sha256_file, write_json
from lpsteps.errors import LpstepsError
from lpsteps.report.table_csv import table_csv


def test_payload_counts_ids_and_bytes(run: Run) -> None:
    payload = run.build()
    ids = [cell["id"] for cell in payload["cells"]]
    assert len(ids) == len(set(ids))
    shown = [
        name
        for table in payload["tables"]
        for section in table["sections"]
        for row in section["rows"]
        for name in row["cells"]
        if name
    ]
    assert sorted(shown) == sorted(ids)
    on_page = {
        (table["id"], column["id"])
        for table in payload["tables"]
        for column in table["columns"]
        if column["shown"]
    }
    cells = [cell for cell in payload["cells"] if (cell["table"], cell["column"]) in on_page]
    counts = payload["run"]["counts"]
    for status, count in counts.items():
        assert count == sum(cell["status"] == status for cell in cells)
    assert sum(counts.values()) == len(cells) < len(ids)
    for cell in payload["cells"]:
        assert (cell["status"] == "missing") == (cell["reason"] is not None)
        if cell["status"] == "missing":
            assert cell["value"] is None and cell["source"] is None and cell["stderr"] is None
        elif not cell["source"] and not cell["parts"]:
            assert cell["note"].startswith("by definition") and cell["n_pruned"] == 0
    assert canonical_json(payload) == canonical_json(run.build())


def test_a_record_with_sorted_keys_gives_the_same_order(run: Run) -> None:
    """An audit has the settings from a record alone."""
    assert list(run.spec["tables"]["table01"]) == [SMALL, LARGE]
    run.spec["order"] = [SMALL, LARGE]
    before = run.build()
    run.spec = json.loads(canonical_json(run.spec))
    assert list(run.spec["tables"]["table01"]) == [LARGE, SMALL]
    assert canonical_json(run.build()) == canonical_json(before)


def test_csv_gives_the_exact_values_back(run: Run) -> None:
    import csv

    payload = run.build()
    cells = {cell["id"]: cell for cell in payload["cells"]}
    lines = list(csv.DictReader(table_csv(payload, "table01").splitlines()))
    assert len(lines) == sum(cell["table"] == "table01" for cell in payload["cells"])
    for line in lines:
        cell = cells[line["id"]]
        assert (float(line["value"]) if line["value"] else None) == cell["value"]
        assert line["reason"] == (cell["reason"] or "")
        assert line["limited"] == ("true" if cell["limited"] else "false")
    layers = {
        line["id"]: line for line in csv.DictReader(table_csv(payload, "table08").splitlines())
    }
    assert layers["table08/llama-2-7b/n7/sleb/layers"]["value"] == "14 23 11 24 10 27 16"


def test_our_own_tables_stand_behind_those_of_the_paper(run: Run) -> None:
    tables = run.build()["tables"]
    assert [table["number"] for table in tables] == [1, 2, 4, 6, 8, 11, None]
    figure = tables[-1]["figure"]
    assert [row["id"] for row in figure["rows"]][:2] == ["pruned", "prune-and-comp"]
    assert tables[0]["figure"] is None


def test_curves_are_in_the_payload(run: Run) -> None:
    tables = {table["id"]: table for table in run.build()["tables"]}
    assert tables["table01"]["curves"] == []
    assert [(c["model"], c["n"]) for c in tables["table11"]["curves"]] == [(SMALL, 5), (LARGE, 7)]
    # The other rows are not configured.
    line, whole = tables["table11"]["curves"][0]["lines"]
    assert (line["row"], line["label"], line["style"]) == ("samples-64", "64 samples", 2)
    assert (whole["row"], whole["style"]) == ("linearpatch+ft", 4)
    assert line["tokens"] == 2 * 64 * 512 and line["objective"] == "logits_kl"
    assert [len(line["fit"]), line["window"]] == [32, 2]
    assert (line["before"], line["kept"], line["after"]) == (
        [0, 2.0],
        [64 * 512, 1.0],
        [2 * 64 * 512, 1.25],
    )
    path = curve_path("linearpatch+ft-samples-64")
    assert line["source"] == {"path": path, "sha256": sha256_file(run.folder / path)}


def test_misplaced_files_are_refused(run: Run) -> None:
    path = run.score_path(SMALL, "piqa", "sleb", 5, "none")
    run.change_score(path, benchmark="copa")
    with pytest.raises(LpstepsError, match="holds copa of smollm2-135m, expected piqa"):
        run.build()
    run.change_score(path, benchmark="piqa")
    text = run.score_path(SMALL, "novels", "sleb", 5, "none")
    run.change_score(text, unit="percent")
    with pytest.raises(LpstepsError, match=r"unit: 'percent': column 'novels' .* is in perplexity"):
        run.build()
    del run.spec["variants"][variant_folder(SMALL, "sleb", 5, "none")]
    with pytest.raises(LpstepsError, match="is not a variant of this profile"):
        run.build()


def test_spec_mistakes_are_named(run: Run) -> None:
    run.spec["tables"]["table01"]["gpt"] = [1]
    with pytest.raises(LpstepsError, match="'gpt' is used but not described"):
        run.build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 8}, "9 ids and 9 values: n is 8"),
        ({"value": 31.0, "samples": {"ids": [0], "values": [3.0]}, "n": 1}, "value: 31.0"),
        ({"samples": {"ids": [0]}}, r"samples\.values"),
        ({"value": None}, "value: None: must be a number; delete it to rebuild it"),
    ],
)
def test_a_score_that_contradicts_itself_is_refused(
    run: Run, changes: dict[str, Any], message: str
) -> None:
    path = run.folder / run.score_path(SMALL, "novels")
    write_json(path, json.loads(path.read_text()) | changes)
    with pytest.raises(LpstepsError, match=message) as caught:
        run.build()
    assert "novels.json" in str(caught.value)


def test_the_patch_of_another_recovery_is_refused(run: Run) -> None:
    folder = variant_folder(SMALL, "sleb", 5, "linearpatch")
    write_json(
        run.folder / folder / "patch.manifest.json", example.patch_manifest("channel-scale", 576)
    )
    with pytest.raises(LpstepsError, match="'channel-scale': expected 'linearpatch'"):
        run.build()


def test_the_curve_of_what_is_not_distilled_is_refused(run: Run) -> None:
    path = f"{variant_folder(SMALL, 'llm-streamline', 5, 'linearpatch')}/training.parquet"
    shutil.copy(curve_path("linearpatch+ft"), path)
    run.paths["curves"].append(path)
    with pytest.raises(LpstepsError, match="'linearpatch' is not distilled"):
        run.build()
