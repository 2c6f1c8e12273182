"""Width prunings in the tables: the ratio from the pruned shapes, and why a cell is missing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from report_example import ROOT, SMALL

from lpsteps.artifacts import read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.patches import tensors_beside
from lpsteps.report.definitions import TableDefinition
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.payload import build_payload
from lpsteps.width_pruning import LayerWidth, TensorShapes, WidthPruning, write_width

FOLDER = Path(f"results/{SMALL}/calibration/wikipedia/width/llm-pruner/n5")
MANIFEST = FOLDER / "width.manifest.json"
# Layer 4 keeps two of three key-value heads of 64 and loses 96 of 1,536 channels, layer 5 loses 97.
SHAPES = {
    name: TensorShapes(dense=[dense, 576], pruned=[pruned, 576])
    for layer, channels in ((4, 1440), (5, 1439))
    for name, dense, pruned in (
        (f"layers.{layer}.self_attn.k_proj.weight", 192, 128),
        (f"layers.{layer}.mlp.gate_proj.weight", 1536, channels),
    )
}
REMOVED = (64 + 96 + 64 + 97) * 576
ROW = f"own/{SMALL}/n5/llm-pruner"
DEFINITION = TableDefinition.model_validate(
    {
        "id": "own",
        "title": "Own",
        "caption": "A width pruning.",
        "columns": [
            {"id": "ratio", "title": "Ratio", "kind": "ratio", "unit": "percent"},
            {"id": "novels", "title": "Novels", "unit": "perplexity"},
            {"id": "layers", "title": "Layers", "kind": "layers", "unit": "layers"},
            {"id": "more", "title": "+", "kind": "parameters_added", "unit": "parameters"},
        ],
        "rows": [
            {"id": "dense", "label": "Dense"},
            {"id": "llm-pruner", "label": "LLM-Pruner", "selection": "llm-pruner"},
        ],
    }
)


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Build the payload of a run with a width pruning, after a change to its settings."""
    monkeypatch.chdir(tmp_path)
    score = FOLDER / "scores/novels.json"
    score.parent.mkdir(parents=True)
    write_json(score, example.score(SMALL, str(FOLDER), "novels", 40.0))
    widths = {
        4: LayerWidth((0, 2), tuple(range(1440))),
        5: LayerWidth((1, 2), tuple(range(1439))),
    }
    pruning = WidthPruning(widths, SHAPES)
    write_width(tensors_beside(MANIFEST), MANIFEST, pruning, width="llm-pruner", n=5)
    spec = copy.deepcopy(example.spec({SMALL: [5]}))
    spec |= {"tables": {"own": {SMALL: [5]}}, "plans": {}, "widths": {"llm-pruner": {"title": "P"}}}
    (dense,) = (facts for facts in spec["variants"].values() if facts["n"] == 0)
    facts = {**dense, "n": 5, "selection": "llm-pruner", "recovery": "none"}
    if "calibration" in facts:
        facts["calibration"] = spec["calibration"]
    spec["variants"] = {f"results/{SMALL}/dense": dense, str(FOLDER): facts}

    def build(problems: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        checked = parse_build_spec({**spec, **changes})
        evidence = gather_evidence(checked, [score, MANIFEST], problems or {})
        return build_payload(checked, [DEFINITION], [], {}, evidence)

    return build


@pytest.fixture
def cells(payload: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Build the cells alone, by their ids."""
    return lambda *problems, **changes: {
        cell["id"]: cell for cell in payload(*problems, **changes)["cells"]
    }


def test_the_ratio_is_counted_from_the_pruned_shapes(cells: Callable[..., dict[str, Any]]) -> None:
    found = cells()
    ratio = found[f"{ROW}/ratio"]
    assert ratio["value"] == pytest.approx(100 * REMOVED / 134_515_008)
    assert ratio["note"] == (
        f"{REMOVED} of 134515008 parameters, counted from the shapes of the pruned layers; "
        "in 2 of 30 layers 1 of 3 key-value heads and 96 to 97 channels each"
    )
    assert ratio["source"]["path"] == str(MANIFEST)
    assert read_json(MANIFEST)[ratio["source"]["pointer"][1:]] == REMOVED
    assert found[f"{ROW}/novels"]["value"] == 40.0
    assert found[f"{ROW}/novels"]["variant"] == str(FOLDER)


def test_a_ratio_says_where_no_head_leaves(cells: Callable[..., dict[str, Any]]) -> None:
    """Shared key-value heads are few, so rounding down may leave all of them in place."""
    whole = TensorShapes(dense=[192, 576], pruned=[192, 576])
    gate = TensorShapes(dense=[1536, 576], pruned=[1200, 576])
    shapes = {
        "layers.4.self_attn.k_proj.weight": whole,
        "layers.4.mlp.gate_proj.weight": gate,
    }
    pruning = WidthPruning({4: LayerWidth((0, 1, 2), tuple(range(1200)))}, shapes)
    write_width(tensors_beside(MANIFEST), MANIFEST, pruning, width="llm-pruner", n=5)
    note = cells()[f"{ROW}/ratio"]["note"]
    assert note.endswith("in 1 of 30 layers 0 of 3 key-value heads and 336 channels each")


def test_a_variant_of_less_width_names_its_manifest(payload: Callable[..., dict[str, Any]]) -> None:
    variants = payload()["variants"]
    described = variants[str(FOLDER)]
    assert (described["width"], described["width_manifest"]) == ("llm-pruner", str(MANIFEST))
    assert described["selection"] is None and described["recovery"] is None
    dense = variants[f"results/{SMALL}/dense"]
    assert dense["width"] is None and dense["width_manifest"] is None


def test_what_a_width_pruning_does_not_have_says_so(cells: Callable[..., dict[str, Any]]) -> None:
    found = cells()
    for column in ("layers", "more"):
        assert found[f"{ROW}/{column}"]["status"] == "missing"
        assert found[f"{ROW}/{column}"]["reason"] == (
            "removes heads and channels: there is no cut to repair"
        )


def test_a_manifest_that_does_not_verify_takes_the_row_along(
    cells: Callable[..., dict[str, Any]],
) -> None:
    found = cells({str(MANIFEST): "altered"})
    reasons = {found[f"{ROW}/{column.id}"]["reason"] for column in DEFINITION.columns}
    assert reasons == {"altered"}


def test_a_level_out_of_reach_says_why(cells: Callable[..., dict[str, Any]]) -> None:
    widths = {"llm-pruner": {"title": "P", "unsuited": {SMALL: {"5": "no room"}}}}
    assert cells(widths=widths)[f"{ROW}/ratio"]["reason"] == "no room"
    elsewhere = {"llm-pruner": {"title": "P", "unsuited": {"llama-2-7b": {"5": "no room"}}}}
    assert cells(widths=elsewhere)[f"{ROW}/ratio"]["status"] == "measured"


@pytest.mark.parametrize("change", [{"width": "other"}, {"n": 4}, {"parameters_removed": 1}])
def test_a_manifest_of_something_else_is_refused(
    cells: Callable[..., dict[str, Any]], change: dict[str, Any]
) -> None:
    write_json(MANIFEST, read_json(MANIFEST) | change)
    with pytest.raises(LpstepsError, match=r"delete it to rebuild it|but the shapes give 184896"):
        cells()


def test_the_paper_s_row_is_this_one() -> None:
    definition = (ROOT / "reports/tables/table01.yaml").read_text()
    printed = (ROOT / "reports/published/table01.csv").read_text()
    assert "selection: llm-pruner" in definition
    assert ",llm-pruner,none,,ratio,26.99," in printed
