"""What stands behind the rows of a made-up run, and what its lack does to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_run
from report_example import SMALL, variant_folder
from report_run import BEYOND, NOTE, OWN, Run, add_own_text, curve_path

from lpsteps.report.definitions import TableDefinition, load_table


def test_equal_layers_are_pointed_out(run: Run) -> None:
    sections = {
        (section["model"], section["n"]): {row["id"]: row["note"] for row in section["rows"]}
        for section in run.build()["tables"][0]["sections"]
    }
    assert sections[SMALL, 5]["llm-streamline"] == "same layers as ShortGPT"
    assert sections[SMALL, 5]["llm-streamline+linearpatch"] == "same layers as ShortGPT"
    assert sections[SMALL, 5]["shortgpt+linearpatch"] is None
    assert sections[SMALL, 3]["llm-streamline"] is None


def test_the_calibration_of_the_profile_by_its_name_is_the_same_model(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_twin(name: str, folder: Path) -> TableDefinition:
        definition = load_table(name, folder)
        if name != "beyond":
            return definition
        named = {"id": "named", "calibration": "wikipedia"}
        twin = definition.row("least-squares").model_copy(update=named)
        return definition.model_copy(update={"rows": (*definition.rows, twin)})

    monkeypatch.setattr(report_run, "load_table", with_a_twin)
    beyond = next(table for table in run.build()["tables"] if table["id"] == "beyond")
    notes = {row["id"]: row["note"] for row in beyond["sections"][1]["rows"]}
    assert notes["named"] == "same layers as LLM-Streamline (None)"


def test_a_row_on_another_calibration_has_its_own_numbers(run: Run) -> None:
    own = add_own_text(run, "least-squares")
    run.change_score(f"{own}/scores/novels.json", value=33.0)
    other = variant_folder(SMALL, "llm-streamline", 5, "least-squares")
    payload = run.build()
    cells = {cell["id"]: cell for cell in payload["cells"]}
    name = "beyond/smollm2-135m/n5/own-text+least-squares"
    assert cells[f"{name}/novels"]["value"] == 33.0
    assert cells[f"{name}/novels"]["source"]["path"] == f"{own}/scores/novels.json"
    assert cells[f"{name}/calibration_tokens"]["value"] == 40_960
    usual = cells["beyond/smollm2-135m/n5/least-squares/novels"]
    assert usual["variant"] == other and usual["value"] != 33.0
    assert cells["beyond/smollm2-135m/n5/least-squares/calibration_tokens"]["value"] == 16_384
    variants = payload["variants"]
    assert (variants[own]["calibration"], variants[other]["calibration"]) == (OWN, "wikipedia")
    assert variants[own]["plan"] == f"{own.rpartition('/')[0]}/plan.json"
    table = next(table for table in payload["tables"] if table["id"] == "beyond")
    notes = {row["id"]: row["note"] for row in table["sections"][1]["rows"]}
    # The layers are the same, the repair is not.
    assert notes["own-text+least-squares"] is None


def test_a_plan_of_one_calibration_that_does_not_verify_spares_the_other(run: Run) -> None:
    own = add_own_text(run, "least-squares")
    run.problems[f"{own.rpartition('/')[0]}/plan.json"] = "was changed"
    cells = run.cells()
    spoilt = cells["beyond/smollm2-135m/n5/own-text+least-squares/novels"]
    assert (spoilt["status"], spoilt["reason"]) == ("missing", "was changed")
    assert cells["beyond/smollm2-135m/n5/least-squares/novels"]["status"] == "measured"


def test_undefined_methods_give_the_stated_reason(run: Run) -> None:
    cells = run.cells()
    expected = {
        "table01/smollm2-135m/n5/llm-pruner/piqa": "width pruning is defined in config/width.yaml",
        "table01/smollm2-135m/n5/llm-pruner/qa_rp": "width pruning is defined in config/width.yaml",
        "table04/smollm2-135m/n5/streamline-ffn+ft/novels": "no recovery 'streamline-ffn+ft' is",
        "table08/smollm2-135m/n5/taylor-plus/layers": "no selection 'taylor+' is configured",
        "beyond/smollm2-135m/n5/aware+branch-refit/share_closed": "no selection 'repair-aware' is",
        "beyond/smollm2-135m/n5/own-text+least-squares/novels": f"no calibration '{OWN}' is",
        "beyond/smollm2-135m/n5/lora/parameters_added": "no recovery 'lora' is configured",
        "table02/smollm2-135m/n5/sleb+linearpatch/novels": "no recovery 'linearpatch-per-layer' is",
    }
    for name, reason in expected.items():
        assert cells[name]["status"] == "missing" and cells[name]["value"] is None
        assert cells[name]["reason"].startswith(reason)
    run.spec["recoveries"]["streamline-ffn+ft"] = run.spec["recoveries"]["linearpatch"]
    reason = run.cells()["table04/smollm2-135m/n5/streamline-ffn+ft/novels"]["reason"]
    assert reason == "this profile does not build the variant"


@pytest.mark.parametrize("kind", ["plans", "patches"])
def test_an_unverified_plan_or_patch_empties_its_rows(run: Run, kind: str) -> None:
    path = next(p for p in run.paths[kind] if f"{SMALL}/" in p and "/sleb/n5/" in p)
    run.problems[path] = "altered"
    variant = str(Path(path).parent) if kind == "patches" else None
    affected = [
        cell
        for cell in run.cells().values()
        if cell["status"] != "published"
        and cell["variant"] is not None
        and (
            cell["variant"] == variant
            if variant
            else "smollm2-135m/calibration/wikipedia/selection/sleb/n5/" in cell["variant"]
        )
    ]
    assert affected
    assert {cell["status"] for cell in affected} == {"missing"}
    assert {cell["reason"] for cell in affected if cell["column"] == "piqa"} == {"altered"}
    assert run.cells()["table01/smollm2-135m/n5/shortgpt/piqa"]["status"] == "measured"


def test_a_level_that_a_repair_is_unsuited_for_is_missing_with_the_reason(run: Run) -> None:
    run.spec["recoveries"]["linearpatch"] = {
        **run.spec["recoveries"]["linearpatch"],
        "unsuited": {SMALL: {"5": "too many layers"}},
    }
    cells = run.cells()
    for column in ("share_closed", "novels", "qa_avg", "ratio", "foldable"):
        cell = cells[f"{BEYOND}/linearpatch/{column}"]
        assert (cell["status"], cell["reason"]) == ("missing", "too many layers")
    assert cells["beyond/smollm2-135m/n3/linearpatch/novels"]["status"] == "measured"
    against = cells[f"{BEYOND}/least-squares/share_closed"]
    assert against["status"] == "measured" and against["comparisons"] == []


def test_a_level_that_a_selection_cannot_reach_is_missing_with_the_reason(run: Run) -> None:
    run.spec["unsuited_selections"] = {"sleb": {SMALL: {"5": "too few layers"}}}
    cells = run.cells()
    for name in ("table01/smollm2-135m/n5/sleb/piqa", "table08/smollm2-135m/n5/sleb/layers"):
        assert (cells[name]["status"], cells[name]["reason"]) == ("missing", "too few layers")
    assert cells["table01/smollm2-135m/n5/shortgpt/piqa"]["status"] == "measured"


FT = "n5/linearpatch+ft"


def test_numbers_of_a_distilled_row_say_how_long_it_was_trained(run: Run) -> None:
    cells = run.cells()
    for column in ("novels", "embedded_ppl_avg", "piqa", "qa_avg", "qa_rp"):
        assert cells[f"table06/{SMALL}/{FT}/{column}"]["note"] == NOTE
    assert cells[f"table06/{SMALL}/{FT}/wikitext2"]["note"] is None  # there is no number
    assert "tokens" not in cells[f"table04/{SMALL}/{FT}/ratio"]["note"]
    assert cells[f"table06/{SMALL}/n5/linearpatch/novels"]["note"] is None
    run.drop("curves", curve_path("linearpatch+ft"))
    cell = run.cells()[f"table06/{SMALL}/{FT}/novels"]
    assert cell["status"] == "measured" and cell["note"] == "how long it was trained is not known"
