"""The real default model and data at a reduced size, through the real downloads."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from project import CHECKOUT, copy_checkout, snakemake, write_yaml

REDUCED = "config/reduced.yaml"


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("default") / "project"
    copy_checkout(project)
    profile = yaml.safe_load((CHECKOUT / "config/config.yaml").read_text())
    profile["tables"] = {"table06": {"smollm2-135m": [3]}}
    profile["suites"]["perplexity"]["benchmarks"] = {"novels": 2}
    profile["suites"]["qa"]["benchmarks"] = {"copa": 8, "arc_easy": 8}
    profile["window_length"] = 128
    profile["definitions"].append("config/reduced_text.yaml")
    profile["training_text"] = "reduced"
    text = {
        "fit": [{"corpus": "novels", "split": "calibration", "windows": 64}],
        "heldout": [{"corpus": "novels", "split": "validation", "windows": 8}],
    }
    write_yaml(project / "config/reduced_text.yaml", {"training_texts": {"reduced": text}})
    write_yaml(project / REDUCED, profile)
    return project


@pytest.mark.slow
@pytest.mark.network
def test_real_model_and_data_end_in_a_page_of_sane_numbers(default: Path):
    run = snakemake(default, "reports/tables.html", profile=REDUCED)
    assert run.returncode == 0, run.stdout
    cells = {c["id"]: c for c in json.loads((default / "reports/tables.json").read_text())["cells"]}

    def value(row: str) -> float:
        level = "n0" if row == "dense" else "n3"
        return cells[f"table06/smollm2-135m/{level}/{row}/novels"]["value"]

    assert 20 < value("dense") < value("vanilla") < math.inf
    assert value("dense") < value("linearpatch+ft") < value("linearpatch")
    assert 0 < cells["table06/smollm2-135m/n3/linearpatch/qa_rp"]["value"] < 200
    assert (
        "Nothing to be done"
        in snakemake(default, "-n", "reports/tables.html", profile=REDUCED).stdout
    )


@pytest.mark.slow
@pytest.mark.network
def test_a_wrong_hash_stops_with_one_line_and_leaves_nothing(default: Path, tmp_path: Path):
    project = tmp_path / "project"
    shutil.copytree(
        default, project, ignore=shutil.ignore_patterns("resources", "results", ".snakemake")
    )
    data = project / "config/data.yaml"
    text = data.read_text()
    data.write_text(text.replace("bcc81830d10ce7d9", "bcc81830d10ce7d8"))
    assert data.read_text() != text
    run = snakemake(project, "resources/archives/smollm2/manifest.json", profile=REDUCED)
    assert run.returncode == 1
    errors = [line for line in run.stdout.splitlines() if line.startswith("error: fetch_archive: ")]
    assert len(errors) == 1 and "sha256" in errors[0] and "bcc81830d10ce7d8" in errors[0]
    left = [p for p in (project / "resources").rglob("*") if p.is_file()]
    assert left == []
