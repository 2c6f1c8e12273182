"""Cells of a made-up run, against values computed here by hand."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from report_example import LARGE, QA, ROOT, SMALL, variant_folder

from lpsteps.artifacts import canonical_json, read_parquet, sha256_file, write_json, write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.report.definitions import TableDefinition, load_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.export import table_csv
from lpsteps.report.payload import build_payload
from lpsteps.report.published import PublishedCell, read_published


class Run:
    """The example in a folder, with hooks to spoil it before building."""

    def __init__(self, folder: Path, paths: dict[str, list[str]]) -> None:
        self.folder = folder
        self.paths = copy.deepcopy(paths)
        self.spec: dict[str, Any] = copy.deepcopy(example.spec())
        self.problems: dict[str, str] = {}

    def build(self, more: Sequence[str] = ()) -> dict[str, Any]:
        spec = parse_build_spec(self.spec)
        files = {kind: [Path(path) for path in paths] for kind, paths in self.paths.items()}
        evidence = gather_evidence(
            spec,
            files["scores"],
            files["plans"],
            files["patches"],
            files["curves"],
            self.problems,
        )
        definitions = [
            load_table(name, ROOT / "reports/tables") for name in (*example.TABLES, *more)
        ]
        sources = sorted(ROOT.glob("reports/published/*.csv"))
        printed = [cell for path in sources for cell in read_published(path)]
        digests = {str(path): sha256_file(path) for path in sources}
        return build_payload(spec, definitions, printed, digests, evidence)

    def cells(self, more: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        return {cell["id"]: cell for cell in self.build(more)["cells"]}

    def score_path(self, model: str, benchmark: str, *variant: Any) -> str:
        return f"{variant_folder(model, *variant)}/scores/{benchmark}.json"

    def change_score(self, path: str, **changes: Any) -> None:
        content = json.loads((self.folder / path).read_text()) | changes
        if content["benchmark"] in example.TEXT and changes.get("value") is not None:
            losses = example.window_losses(path, content["benchmark"], changes["value"])
            content["samples"]["values"] = losses
        write_json(self.folder / path, content)

    def score_as(self, model: str, benchmark: str, other: str, *variant: Any) -> None:
        """Give a variant's score on one benchmark a second time, under another's name."""
        content = json.loads(
            (self.folder / self.score_path(model, benchmark, *variant)).read_text()
        )
        target = self.score_path(model, other, *variant)
        write_json(self.folder / target, content | {"benchmark": other})
        self.paths["scores"].append(target)

    def rename(self, old: str, new: str) -> None:
        """Give the variants of a recovery to another one."""
        for facts in self.spec["variants"].values():
            if facts["recovery"] == old:
                facts["recovery"] = new
        for path in self.paths["patches"]:
            content = json.loads((self.folder / path).read_text())
            if content["recovery"] == old:
                write_json(self.folder / path, content | {"recovery": new})
        folders = dict[str, str]()
        for folder in list(self.spec["variants"]):
            parent, _, name = folder.rpartition("/")
            if name == old:
                folders[folder] = f"{parent}/{new}"
                self.spec["variants"][f"{parent}/{new}"] = self.spec["variants"].pop(folder)
                (self.folder / folder).rename(self.folder / parent / new)
        for paths in self.paths.values():
            for place, path in enumerate(paths):
                for folder, renamed in folders.items():
                    if path.startswith(f"{folder}/"):
                        paths[place] = path.replace(f"{folder}/", f"{renamed}/")

    def drop(self, kind: str, path: str) -> None:
        self.paths[kind].remove(path)


Written = tuple[Path, dict[str, list[str]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    return folder, example.write_run(folder)


@pytest.fixture
def run(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    original, paths = written
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path, paths)


def test_a_score_cell_says_where_it_stands(run: Run) -> None:
    path = run.score_path(SMALL, "piqa", "llm-streamline", 5, "linearpatch")
    run.change_score(path, value=41.123456789, stderr=6.1)
    cell = run.cells()["table01/smollm2-135m/n5/llm-streamline+linearpatch/piqa"]
    assert cell["status"] == "measured"
    assert cell["value"] == 41.123456789 and cell["text"] == "41.12"
    assert (cell["stderr"], cell["n"], cell["total"], cell["limited"]) == (6.1, 64, 1838, True)
    digest = sha256_file(run.folder / path)
    assert cell["source"] == {"path": path, "pointer": "/value", "sha256": digest}
    assert cell["variant"] == variant_folder(SMALL, "llm-streamline", 5, "linearpatch")
    assert cell["published"] is None and cell["difference"] is None and cell["reason"] is None


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


def test_ratio_counts_the_patch(run: Run) -> None:
    cells = run.cells()
    assert cells["table01/llama-2-7b/n7/shortgpt/ratio"]["text"] == "21.02"
    patched = cells["table01/llama-2-7b/n7/shortgpt+linearpatch/ratio"]
    assert patched["text"] == "20.78" and patched["source"]["pointer"] == "/parameters"
    assert abs(patched["difference"]) < 0.005
    assert cells["table01/llama-2-7b/n0/dense/ratio"]["value"] == 0.0


def test_layers_come_from_the_plan(run: Run) -> None:
    cells = run.cells()
    sleb = cells["table08/llama-2-7b/n7/sleb/layers"]
    assert sleb["value"] == [14, 23, 11, 24, 10, 27, 16]
    assert sleb["text"] == "14, 23, 11, 24, 10, 27, 16"
    assert sleb["difference"] == 1  # the paper removes 15 where this plan removes 16
    window = cells["table08/llama-2-7b/n7/shortgpt/layers"]
    assert window["text"] == "[23,30)" and window["published_text"] == "[23,30)"
    assert window["difference"] == 0
    assert window["source"]["pointer"] == "/order"


def test_equal_layers_are_pointed_out(run: Run) -> None:
    sections = {
        (section["model"], section["n"]): {row["id"]: row["note"] for row in section["rows"]}
        for section in run.build()["tables"][0]["sections"]
    }
    assert sections[SMALL, 5]["llm-streamline"] == "same layers as ShortGPT"
    assert sections[SMALL, 5]["llm-streamline+linearpatch"] == "same layers as ShortGPT"
    assert sections[SMALL, 5]["shortgpt+linearpatch"] is None
    assert sections[SMALL, 3]["llm-streamline"] is None


OWN = "wikipedia-64+own"


def add_own_text(run: Run, recovery: str) -> str:
    """Build the variant of the first row on text of the model's own; return its folder."""
    run.spec["own_calibrations"] = {
        OWN: {recovery: {**run.spec["recoveries"][recovery], "calibration_tokens": 81_920}}
    }
    plan = example.plan_folder(SMALL, "llm-streamline", 5)
    folder = variant_folder(SMALL, "llm-streamline", 5, recovery)
    own_plan, own = (path.replace("/wikipedia/", f"/{OWN}/") for path in (plan, folder))
    run.spec["plans"][own_plan] = {**run.spec["plans"][plan], "calibration": OWN}
    run.spec["variants"][own] = {**run.spec["variants"][folder], "calibration": OWN}
    for kind, here, there in (
        ("plans", f"{plan}/plan.json", f"{own_plan}/plan.json"),
        ("patches", f"{folder}/patch.manifest.json", f"{own}/patch.manifest.json"),
        *(
            ("scores", path, path.replace(folder, own))
            for path in list(run.paths["scores"])
            if path.startswith(f"{folder}/")
        ),
    ):
        (run.folder / there).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.folder / here, run.folder / there)
        run.paths[kind].append(there)
    return own


def test_a_row_on_another_calibration_has_its_own_numbers(run: Run) -> None:
    own = add_own_text(run, "least-squares")
    run.change_score(f"{own}/scores/novels.json", value=33.0)
    other = variant_folder(SMALL, "llm-streamline", 5, "least-squares")
    payload = run.build()
    cells = {cell["id"]: cell for cell in payload["cells"]}
    name = "beyond/smollm2-135m/n5/own-text+least-squares"
    assert cells[f"{name}/novels"]["value"] == 33.0
    assert cells[f"{name}/novels"]["source"]["path"] == f"{own}/scores/novels.json"
    assert cells[f"{name}/calibration_tokens"]["value"] == 81_920
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


def test_a_printed_value_stands_beside_the_profiles_calibration_alone(run: Run) -> None:
    own = add_own_text(run, "linearpatch")
    definition = load_table("table06", ROOT / "reports/tables")
    content = definition.model_dump()
    row = next(row for row in content["rows"] if row["recovery"] == "linearpatch")
    content["rows"] += ({**row, "id": "own", "calibration": OWN},)
    definition = TableDefinition.model_validate(content)
    spec = parse_build_spec(run.spec)
    evidence = gather_evidence(
        spec, *([Path(path) for path in paths] for paths in run.paths.values())
    )
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


def test_no_number_means_missing(run: Run) -> None:
    run.change_score(run.score_path(SMALL, "novels", "sleb", 5, "none"), value=None, stderr=None)
    cell = run.cells()["table02/smollm2-135m/n5/sleb/novels"]
    assert cell["status"] == "missing" and cell["reason"] == "the evaluation gave no finite number"


def test_an_unverified_score_is_missing_and_so_is_what_rests_on_it(run: Run) -> None:
    path = run.score_path(SMALL, "piqa", "sleb", 5, "none")
    run.problems[path] = "the record does not match the file"
    cells = run.cells()
    for column in ("piqa", "qa_avg", "qa_rp"):
        cell = cells[f"table01/smollm2-135m/n5/sleb/{column}"]
        assert cell["status"] == "missing" and cell["value"] is None
        assert "the record does not match the file" in cell["reason"]
    assert cells["table01/smollm2-135m/n5/sleb/copa"]["status"] == "measured"


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


def test_best_and_second_among_measured_pruned_rows(run: Run) -> None:
    def put(value: float, *variant: Any) -> None:
        run.change_score(run.score_path(SMALL, "piqa", *variant), value=value)
        run.change_score(run.score_path(SMALL, "novels", *variant), value=value)

    put(99.0)  # dense: out of the contest
    put(40.0, "sleb", 5, "none")
    put(50.0, "shortgpt", 5, "none")
    put(50.0, "llm-streamline", 5, "none")
    put(60.0, "shortgpt", 5, "linearpatch")
    put(45.0, "llm-streamline", 5, "linearpatch")
    cells = run.cells()
    marks = {
        name.split("/")[3]: cell["mark"]
        for name, cell in cells.items()
        if name.startswith("table01/smollm2-135m/")
        and name.endswith("/piqa")
        and "/n3/" not in name
    }
    assert marks == {
        "dense": None,
        "llm-pruner": None,
        "sleb": None,
        "shortgpt": "second",
        "llm-streamline": "second",
        "shortgpt+linearpatch": "best",
        "llm-streamline+linearpatch": None,
    }
    assert cells["table02/smollm2-135m/n5/sleb/novels"]["mark"] == "best"  # lower is better
    assert cells["table02/smollm2-135m/n5/llm-streamline+linearpatch/novels"]["mark"] == "second"
    assert {c["mark"] for c in cells.values() if c["column"] == "ratio"} == {None}
    assert {c["mark"] for c in cells.values() if c["status"] != "measured"} == {None}


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
    counts = payload["run"]["counts"]
    for status, count in counts.items():
        assert count == sum(cell["status"] == status for cell in payload["cells"])
    assert sum(counts.values()) == len(ids)
    for cell in payload["cells"]:
        assert (cell["status"] == "missing") == (cell["reason"] is not None)
        if cell["status"] == "missing":
            assert cell["value"] is None and cell["source"] is None and cell["stderr"] is None
        elif not cell["source"] and not cell["parts"]:
            assert cell["note"].startswith("by definition") and cell["n_pruned"] == 0
    assert canonical_json(payload) == canonical_json(run.build())


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


def test_misplaced_files_are_refused(run: Run) -> None:
    path = run.score_path(SMALL, "piqa", "sleb", 5, "none")
    run.change_score(path, benchmark="copa")
    with pytest.raises(LpstepsError, match="holds copa of smollm2-135m, expected piqa"):
        run.build()
    run.change_score(path, benchmark="piqa", unit="nats")
    with pytest.raises(LpstepsError, match="unit: 'nats'"):
        run.build()
    del run.spec["variants"][variant_folder(SMALL, "sleb", 5, "none")]
    with pytest.raises(LpstepsError, match="is not a variant of this profile"):
        run.build()


def test_spec_mistakes_are_named(run: Run) -> None:
    run.spec["tables"]["table01"]["gpt"] = [1]
    with pytest.raises(LpstepsError, match="'gpt' is used but not described"):
        run.build()


BEYOND = "beyond/smollm2-135m/n5"


def test_costs_come_from_the_patch_manifest(run: Run) -> None:
    cells = run.cells()
    shown = {
        row: [
            cells[f"{BEYOND}/{row}/{column}"]["text"]
            for column in (
                "parameters_added",
                "flops_added",
                "foldable",
                "trained",
                "calibration_tokens",
            )
        ]
        for row in ("pruned", "prune-and-comp", "channel-scale", "linearpatch", "streamline-ffn")
    }
    tokens = "16\u202f384"
    assert shown == {
        "pruned": ["0", "0", "yes", "training-free", "0"],
        "prune-and-comp": ["1", "576", "by scaling", "training-free", tokens],
        "channel-scale": ["576", "576", "no", "training-free", tokens],
        "linearpatch": ["0.33\u202fM", "0.66\u202fM", "no", "training-free", tokens],
        "streamline-ffn": ["1.99\u202fM", "3.98\u202fM", "no", "trained", tokens],
    }
    added = cells[f"{BEYOND}/linearpatch/parameters_added"]
    path = f"{variant_folder(SMALL, 'llm-streamline', 5, 'linearpatch')}/patch.manifest.json"
    assert added["value"] == 576**2 and added["note"] is None
    assert added["source"] == {
        "path": path,
        "pointer": "/parameters",
        "sha256": sha256_file(run.folder / path),
    }
    assert cells[f"{BEYOND}/prune-and-comp/flops_added"]["note"].startswith("none once folded")
    assert cells[f"{BEYOND}/linearpatch/foldable"]["value"] is False
    assert cells[f"{BEYOND}/streamline-ffn/trained"]["value"] is True
    assert cells[f"{BEYOND}/streamline-ffn/trained"]["note"] == "8 epochs of 14\u202f336 tokens"
    dense = cells["beyond/smollm2-135m/n0/dense/flops_added"]
    assert dense["text"] == "0" and dense["note"].startswith("by definition")
    run.drop("patches", path)
    missing = run.cells()[f"{BEYOND}/linearpatch/flops_added"]
    assert missing["reason"] == "there is no patch manifest"


FAMILIES = (
    "; rotations fold only into LLaMA, Mistral, Phi-3, Qwen2 and Qwen3, not into families whose "
    "norms subtract the mean (OPT, GPT-NeoX) or follow the branches (Gemma 2 and 3, OLMo 2)"
)
# The embedding of SmolLM2, 49,152 x 576, and its last norm.
UNTIED = (
    "; a head that is tied to the embedding then gets weights of its own, vocabulary x 576 "
    "parameters, at most 28.31\u202fM"
)
FOLDED = "none once folded into the weights"


@pytest.mark.parametrize(
    ("kind", "foldable", "parameters", "flops", "text"),
    [
        ("scalar", "operations: scalar", FOLDED, FOLDED, "by scaling"),
        (
            "rotation",
            f"operations: rotation{FAMILIES}{UNTIED}",
            f"{FOLDED}{FAMILIES}{UNTIED}",
            f"{FOLDED}{FAMILIES}",
            "by rotation",
        ),
        ("matrix", "operations: matrix", None, None, "no"),
    ],
)
def test_costs_say_what_folding_leaves(
    run: Run, kind: str, foldable: str, parameters: str | None, flops: str | None, text: str
) -> None:
    path = f"{variant_folder(SMALL, 'llm-streamline', 5, 'linearpatch')}/patch.manifest.json"
    manifest = json.loads((run.folder / path).read_text())
    manifest["gaps"][0]["operations"][0]["kind"] = kind
    write_json(run.folder / path, manifest | {"foldable": kind != "matrix"})
    cells = run.cells()
    assert cells[f"{BEYOND}/linearpatch/foldable"]["text"] == text
    assert cells[f"{BEYOND}/linearpatch/foldable"]["note"] == foldable
    assert cells[f"{BEYOND}/linearpatch/parameters_added"]["note"] == parameters
    assert cells[f"{BEYOND}/linearpatch/flops_added"]["note"] == flops
    assert cells[f"{BEYOND}/linearpatch/trained"]["note"] is None


def test_the_families_of_a_rotation_are_those_that_can_be_folded() -> None:
    from lpsteps.models import folding

    folded, refused = (
        text.lower().replace("-", "").replace(" ", "") for text in FAMILIES.split(", not into")
    )
    assert len(re.split(",|and", folded.partition("into")[2])) == len(folding._ROTATABLE)
    assert all(family in folded for family in folding._ROTATABLE)
    assert "gemma2and3" in refused
    for family in folding._ROTATION_OBSTACLES.keys() - {"gemma2", "gemma3_text"}:
        assert family.replace("_", "") in refused


def test_a_row_that_keeps_a_layer_says_so_and_is_not_the_best(run: Run) -> None:
    """LLM-Streamline with a layer takes out one layer less than the rows beside it."""
    before = run.cells()
    best = f"{BEYOND}/least-squares"
    assert before[f"{best}/share_closed"]["mark"] == "best"
    path = f"{variant_folder(SMALL, 'llm-streamline', 5, 'least-squares')}/patch.manifest.json"
    manifest = json.loads((run.folder / path).read_text())
    layer = {"replacements.layers.12.w": {"shape": [example.MODELS[SMALL]["layer_parameters"]]}}
    write_json(
        run.folder / path,
        manifest
        | {
            "parameters": 3_540_096,
            "foldable": True,
            "gaps": [],
            "replacements": ["layers.12.w"],
            "restored": [12],
            "tensors": layer,
        },
    )
    payload = run.build()
    cells = {cell["id"]: cell for cell in payload["cells"]}
    marks = {row: cells[f"{BEYOND}/{row}/share_closed"]["mark"] for row in ("linearpatch", "lora")}
    assert cells[f"{best}/share_closed"]["mark"] is None
    assert cells[f"{BEYOND}/streamline-ffn/share_closed"]["mark"] == "best"
    assert marks == {"linearpatch": "second", "lora": None}
    ratio = cells[f"{best}/ratio"]
    assert ratio["value"] == pytest.approx(100 * 4 * 3_540_096 / 134_515_008)
    assert ratio["note"].endswith("parameters; keeps 1 retrained layer")
    assert cells[f"{best}/parameters_added"]["note"] is None
    assert cells[f"{best}/foldable"]["text"] == "yes"
    [table] = [table for table in payload["tables"] if table["id"] == "beyond"]
    notes = {
        row["id"]: row["note"]
        for section in table["sections"]
        if (section["model"], section["n"]) == (SMALL, 5)
        for row in section["rows"]
    }
    assert notes["least-squares"] == "keeps 1 retrained layer" and notes["linearpatch"] is None


def test_a_level_that_a_repair_is_unsuited_for_is_missing_with_the_reason(run: Run) -> None:
    run.spec["recoveries"]["linearpatch"] = {
        **run.spec["recoveries"]["linearpatch"],
        "unsuited": {"5": "too many layers"},
    }
    cells = run.cells()
    for column in ("share_closed", "novels", "qa_avg", "ratio", "foldable"):
        cell = cells[f"{BEYOND}/linearpatch/{column}"]
        assert (cell["status"], cell["reason"]) == ("missing", "too many layers")
    assert cells["beyond/smollm2-135m/n3/linearpatch/novels"]["status"] == "measured"
    against = cells[f"{BEYOND}/least-squares/share_closed"]
    assert against["status"] == "measured" and against["comparisons"] == []


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


def test_one_window_gives_a_share_but_no_interval(run: Run) -> None:
    for variant in ((), *(("llm-streamline", 5, name) for name in ("none", "linearpatch"))):
        path = run.score_path(SMALL, "novels", *variant)
        value = losses(run, "novels", *variant)[0]
        changes = {"n": 1, "samples": {"ids": [0], "values": [value]}}
        content = json.loads((run.folder / path).read_text()) | changes
        write_json(run.folder / path, content | {"value": math.exp(value)})
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


def test_our_own_tables_stand_behind_those_of_the_paper(run: Run) -> None:
    tables = run.build()["tables"]
    assert [table["number"] for table in tables] == [1, 2, 4, 6, 8, 11, None]
    figure = tables[-1]["figure"]
    assert [row["id"] for row in figure["rows"]][:2] == ["pruned", "prune-and-comp"]
    assert tables[0]["figure"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 8}, "9 ids and 9 values: n is 8"),
        ({"value": 31.0, "samples": {"ids": [0], "values": [3.0]}, "n": 1}, "value: 31.0"),
        ({"samples": {"ids": [0]}}, r"samples\.values"),
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


FT = "n5/linearpatch+ft"
NOTE = "distilled on 0.13\u202fM tokens, 128 windows of 512; the state after 65\u202f536 is kept"


def curve_path(recovery: str, model: str = SMALL, n: int = 5) -> str:
    return f"{variant_folder(model, 'llm-streamline', n, recovery)}/training.parquet"


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


def test_columns_of_a_distillation(run: Run) -> None:
    cells = run.cells()
    shown = {
        row: [
            cells[f"table11/{SMALL}/n5/{row}/{column}"]
            for column in ("distilled_windows", "distilled_tokens", "target_storage")
        ]
        for row in ("linearpatch", "samples-64")
    }
    assert [cell["value"] for cell in shown["linearpatch"]] == [0, 0, 0]
    # Two passes; 49,153 x 576 parameters lie outside of the layers, so 5 bytes an outcome.
    values = [64, 2 * 64 * 512, 64 * 512 * 100 * 5]
    assert [cell["value"] for cell in shown["samples-64"]] == values
    assert shown["samples-64"][2]["text"] == "16.4\u202fMB"
    assert shown["samples-64"][2]["note"] == (
        "64 windows of 512 tokens, 100 outcomes at each, 5 bytes an outcome; "
        "not stored in this run, which makes them on the way"
    )
    assert shown["samples-64"][0]["note"] == (
        "64 windows of 512 tokens, 2 passes at most, from the patch of linearpatch"
    )
    path = curve_path("linearpatch+ft-samples-64")
    assert {canonical_json(cell["source"]) for cell in shown["samples-64"]} == {
        canonical_json(
            {"path": path, "pointer": "column=tokens", "sha256": sha256_file(run.folder / path)}
        )
    }
    run.drop("curves", path)
    missing = run.cells()[f"table11/{SMALL}/n5/samples-64/target_storage"]
    assert missing["reason"] == "there is no training curve"
    run.problems[path] = "altered"
    missing = run.cells()[f"table11/{SMALL}/n5/samples-64/target_storage"]
    assert missing["reason"] == "altered"


@pytest.mark.parametrize(
    ("changes", "storage", "top_k"),
    [
        ({"mode": "offline"}, 64 * 512 * 100 * 5, 100),
        ({"tail": True, "top_k": 50}, 64 * 512 * 50 * 5, 50),
        ({"top_k": None}, "compares the whole vocabulary", "compares the whole vocabulary"),
        (
            {"objective": "feature_mse"},
            "compares hidden states, not outcomes",
            "compares hidden states, not outcomes",
        ),
    ],
)
def test_what_a_distillation_stores(
    run: Run, changes: dict[str, Any], storage: int | str, top_k: int | str
) -> None:
    run.spec["recoveries"]["linearpatch+ft-top-50"] = copy.deepcopy(
        run.spec["recoveries"]["linearpatch+ft-samples-64"]
    )
    run.spec["recoveries"]["linearpatch+ft-top-50"]["distillation"] |= changes
    run.spec["tables"]["table12"] = {SMALL: [5]}
    run.rename("linearpatch+ft-samples-64", "linearpatch+ft-top-50")
    cells = run.cells(["table12"])
    for column, expected in (("target_storage", storage), ("top_k", top_k)):
        cell = cells[f"table12/{SMALL}/n5/top-50/{column}"]
        assert (cell["reason"] or cell["value"]) == expected
    stored = cells[f"table12/{SMALL}/n5/top-50/target_storage"]
    if changes.get("mode") == "offline":
        assert stored["note"].endswith("; stored in this run")
    tail = cells[f"table12/{SMALL}/n5/top-50/top_k"]
    if changes.get("tail"):
        assert tail["note"] == "the rest is one more outcome"
    assert cells[f"table12/{SMALL}/n5/linearpatch/top_k"]["reason"] == "nothing is distilled"


@pytest.mark.parametrize(
    ("tokens", "storage"),
    [
        (65_536, 5.0),
        (65_537, None),  # or half as many, with a head of their own
        (131_072, None),
        (131_074, 5.5),
    ],
)
def test_storage_needs_to_know_on_which_side_the_vocabulary_lies(
    run: Run, tokens: int, storage: float | None
) -> None:
    facts = run.spec["models"][SMALL]
    layers = facts["n_layers"] * facts["layer_parameters"]
    run.spec["models"][SMALL] = facts | {"parameters": layers + tokens * facts["hidden_size"]}
    cell = run.cells()[f"table11/{SMALL}/n5/samples-64/target_storage"]
    if storage is None:
        assert cell["reason"] == "the sizes of the model leave open how many tokens it has"
    else:
        assert cell["value"] == 64 * 512 * 100 * storage
        assert f"{storage:g} bytes an outcome" in cell["note"]


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


def test_unequal_numbers_of_samples_stand_in_rows_of_their_own(run: Run) -> None:
    [table] = [table for table in run.build()["tables"] if table["number"] == 11]
    [section] = [s for s in table["sections"] if (s["model"], s["n"]) == (LARGE, 7)]
    assert [(row["id"], row["kind"]) for row in section["rows"]] == [
        ("linearpatch", "measured"),
        ("samples-32", "measured"),
        ("samples-64", "measured"),
        ("linearpatch+ft", "measured"),
        ("samples-2500", "published"),
        ("samples-7500", "published"),
    ]
    cells = run.cells()
    assert cells[f"table11/{LARGE}/n7/linearpatch/wikitext2"]["published"] == 13.22
    assert cells[f"table11/{LARGE}/n7/samples-32/wikitext2"]["published"] is None
    theirs = cells[f"table11/{LARGE}/n7/samples-2500/target_storage"]
    assert (theirs["text"], theirs["value"]) == ("5G", None)
    assert cells[f"table11/{LARGE}/n7/samples-2500/distilled_windows"]["value"] == 2500.0


def test_the_whole_text_stands_beside_the_number_of_samples_of_the_other_tables(run: Run) -> None:
    cells = run.cells()
    whole = f"table11/{LARGE}/n7/linearpatch+ft"
    assert cells[f"{whole}/distilled_windows"]["published_text"] == "5000"
    assert cells[f"{whole}/wikitext2"]["published"] == 8.09
    accuracy = cells[f"{whole}/arc_easy"]
    assert (accuracy["published"], accuracy["difference"]) == (64.35, None)
    assert accuracy["unjudged"] == "trained on another amount of text than the paper's row"


def test_curves_are_in_the_payload(run: Run) -> None:
    tables = {table["id"]: table for table in run.build()["tables"]}
    assert tables["table01"]["curves"] == []
    assert [(c["model"], c["n"]) for c in tables["table11"]["curves"]] == [(SMALL, 5), (LARGE, 7)]
    # The third of its rows is not configured.
    line, whole = tables["table11"]["curves"][0]["lines"]
    assert (line["row"], line["label"], line["style"]) == ("samples-64", "64 samples", 2)
    assert (whole["row"], whole["style"]) == ("linearpatch+ft", 3)
    assert line["tokens"] == 2 * 64 * 512 and line["objective"] == "logits_kl"
    assert [len(line["fit"]), line["window"]] == [32, 2]
    assert (line["before"], line["kept"], line["after"]) == (
        [0, 2.0],
        [64 * 512, 1.0],
        [2 * 64 * 512, 1.25],
    )
    path = curve_path("linearpatch+ft-samples-64")
    assert line["source"] == {"path": path, "sha256": sha256_file(run.folder / path)}


def test_a_distilled_repair_is_trained_and_reads_its_text(run: Run) -> None:
    """As in a table of costs; the null stands for all windows that there are."""
    facts = run.spec["recoveries"].pop("linearpatch+ft")
    training = {"epochs": 2, "tokens": None}
    run.spec["recoveries"]["lora"] = facts | {"calibration_tokens": None, "training": training}
    run.rename("linearpatch+ft", "lora")
    cells = run.cells()
    assert cells[f"{BEYOND}/lora/trained"]["text"] == "trained"
    assert cells[f"{BEYOND}/lora/trained"]["note"] == "distilled, from the patch of linearpatch"
    read = cells[f"{BEYOND}/lora/calibration_tokens"]
    assert read["value"] == 128 * 512
    ending = ", which reads 16\u202f384 tokens besides, not counted here"
    assert read["note"].endswith(f"from the patch of linearpatch{ending}")
    for tokens, ending in (
        (None, ", which reads its whole text besides, not counted here"),
        (0, ""),
    ):
        run.spec["recoveries"]["linearpatch"]["calibration_tokens"] = tokens
        note = run.cells()[f"{BEYOND}/lora/calibration_tokens"]["note"]
        assert note.endswith(f"from the patch of linearpatch{ending}")


def test_the_curve_of_what_is_not_distilled_is_refused(run: Run) -> None:
    path = f"{variant_folder(SMALL, 'llm-streamline', 5, 'linearpatch')}/training.parquet"
    shutil.copy(curve_path("linearpatch+ft"), path)
    run.paths["curves"].append(path)
    with pytest.raises(LpstepsError, match="'linearpatch' is not distilled"):
        run.build()
