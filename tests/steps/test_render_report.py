from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_example as example
from report_example import ROOT

from lpsteps.artifacts import read_json, sha256_file
from lpsteps.steps.build_tables import main as build_tables
from lpsteps.steps.render_report import main

LEVELS = {example.SMALL: [3]}
TEMPLATES = sorted(str(path) for path in (ROOT / "reports/templates").iterdir())


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    example.copy_reports(tmp_path)
    arguments = example.build_arguments(example.write_run(tmp_path, LEVELS))
    assert build_tables([*arguments, "--spec", json.dumps(example.spec(LEVELS))]) == 0
    return Path("out/tables.json")


def test_page_record_and_identical_second_run(tables: Path) -> None:
    command = ["--tables", str(tables), "--templates", *TEMPLATES, "--page", "out/tables.html"]
    assert main(command) == 0
    page = Path("out/tables.html")
    first = page.read_bytes()
    assert first.startswith(b"<!DOCTYPE html>")
    assert sha256_file(tables).encode() in first
    inputs = {entry["path"] for entry in read_json(Path("out/tables.html.record.json"))["inputs"]}
    assert inputs == {str(tables), *TEMPLATES}
    assert main(command) == 0
    assert page.read_bytes() == first


def test_a_missing_template_is_one_line(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = [path for path in TEMPLATES if not path.endswith("panel.js")]
    assert main(["--tables", str(tables), "--templates", *some, "--page", "out/tables.html"]) == 1
    error = capsys.readouterr().err
    assert "panel.js was not given" in error and error.count("\n") == 1
    assert not Path("out/tables.html").exists()
