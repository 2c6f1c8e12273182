"""The made-up run of the report in a folder, to be spoilt before its tables are built."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report_example as example
from report_example import ROOT, SMALL, variant_folder

from lpsteps.artifacts import sha256_file, write_json
from lpsteps.report.definitions import load_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.payload import build_payload
from lpsteps.report.published import read_published

BEYOND = "beyond/smollm2-135m/n5"
OWN = "wikipedia-32+own"
NOTE = "distilled on 0.13\u202fM tokens, 128 windows of 512; the state after 65\u202f536 is kept"


def curve_path(recovery: str, model: str = SMALL, n: int = 5) -> str:
    return f"{variant_folder(model, 'llm-streamline', n, recovery)}/training.parquet"


class Run:
    """The example in a folder, with hooks to spoil it before building."""

    def __init__(self, folder: Path, paths: dict[str, list[str]]) -> None:
        self.folder = folder
        self.paths = copy.deepcopy(paths)
        self.spec: dict[str, Any] = copy.deepcopy(example.spec())
        self.problems: dict[str, str] = {}

    def build(self, more: Sequence[str] = ()) -> dict[str, Any]:
        spec = parse_build_spec(self.spec)
        files = [Path(path) for paths in self.paths.values() for path in paths]
        evidence = gather_evidence(spec, files, self.problems)
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


def add_own_text(run: Run, recovery: str) -> str:
    """Build the variant of the first row on text of the model's own; return its folder."""
    run.spec["own_calibrations"] = {
        OWN: {recovery: {**run.spec["recoveries"][recovery], "calibration_tokens": 40_960}}
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
