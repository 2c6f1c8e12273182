from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_example as example

from lpsteps.artifacts import read_json, sha256_file
from lpsteps.report.payload import SCHEMA
from lpsteps.steps.build_tables import main

LEVELS = {example.SMALL: [3]}
SPEC = example.spec(LEVELS)
OUTPUTS = ["out/tables.json", *(f"out/tables/{table}.csv" for table in example.TABLES)]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    example.copy_reports(tmp_path)
    return example.build_arguments(example.write_run(tmp_path, LEVELS))


def test_outputs_records_and_identical_second_run(arguments: list[str]) -> None:
    command = [*arguments, "--spec", json.dumps(SPEC), "--log", "log.txt"]
    assert main(command) == 0
    first = {name: Path(name).read_bytes() for name in OUTPUTS}
    payload = read_json(Path("out/tables.json"))
    assert payload["schema"] == SCHEMA
    assert [table["id"] for table in payload["tables"]] == example.TABLES
    record = read_json(Path("out/tables.json.record.json"))
    inputs = {entry["path"]: entry["sha256"] for entry in record["inputs"]}
    for cell in payload["cells"]:
        if cell["source"]:
            assert inputs[cell["source"]["path"]] == cell["source"]["sha256"]
            assert sha256_file(Path(cell["source"]["path"])) == cell["source"]["sha256"]
    assert "reports/tables/table01.yaml" in inputs
    assert record["notes"]["cells"] == payload["run"]["counts"]
    assert payload["run"]["counts"]["measured"] > 50
    assert main(command) == 0
    assert {name: Path(name).read_bytes() for name in OUTPUTS} == first


def test_the_spec_may_be_a_python_literal(arguments: list[str]) -> None:
    assert main([*arguments, "--spec", repr(SPEC)]) == 0


def test_arguments_may_stand_in_a_file(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*arguments, "--spec", json.dumps(SPEC)]
    Path("arguments.txt").write_text("\n".join(lines))
    assert main(lines) == 0
    first = {name: Path(name).read_bytes() for name in OUTPUTS}
    assert main(["@arguments.txt", "--log", "log.txt"]) == 0
    assert {name: Path(name).read_bytes() for name in OUTPUTS} == first
    record = read_json(Path("out/tables.json.record.json"))
    # The file is in no record, so what it says must be.
    assert record["command"][3:] == [*lines, "--log", "log.txt"]
    assert record["spec"] == SPEC
    with pytest.raises(SystemExit):
        main(["@elsewhere.txt"])
    assert "No such file or directory: 'elsewhere.txt'" in capsys.readouterr().err


def test_a_value_is_found_at_its_pointer(arguments: list[str]) -> None:
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 0
    checked = 0
    for cell in read_json(Path("out/tables.json"))["cells"]:
        if cell["source"] and cell["source"]["pointer"] in ("/value", "/order"):
            content = read_json(Path(cell["source"]["path"]))
            assert content[cell["source"]["pointer"][1:]] == cell["value"]
            checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda spec: spec.pop("models"), "models"),
        (lambda spec: spec.update(model={}), "unknown key, did you mean 'models'?"),
        (lambda spec: spec["tables"].update(table99={}), "'table99': its definition was not given"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], spoil: object, message: str
) -> None:
    spec = example.spec(LEVELS)
    spoil(spec)  # type: ignore[operator]
    assert main([*arguments, "--spec", json.dumps(spec)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
    assert not any(Path(name).exists() for name in OUTPUTS)


def test_an_empty_page_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile without tables and figures is one to build single results of."""
    output = tmp_path / "tables.json"
    spec = json.dumps(SPEC | {"tables": {}, "figures": {}})
    assert main(["--inputs", "--tables-json", str(output), "--spec", spec]) == 1
    error = capsys.readouterr().err
    assert "the page would be empty; name a table or a figure" in error and error.count("\n") == 1
    assert not output.exists()


def test_a_tampered_training_record_takes_its_curve_and_its_numbers_along(
    arguments: list[str],
) -> None:
    """Scores do not rest on it: they stay, but nothing is said of how long was trained."""
    folder = example.variant_folder(example.SMALL, "llm-streamline", 3, "linearpatch+ft")
    path = Path(folder) / "training.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 0
    payload = read_json(Path("out/tables.json"))
    cells = {cell["id"]: cell for cell in payload["cells"]}
    score = cells["table06/smollm2-135m/n3/linearpatch+ft/novels"]
    assert score["status"] == "measured" and score["note"] == "how long it was trained is not known"
    assert not next(table for table in payload["tables"] if table["number"] == 6)["curves"]
    [curves] = next(table for table in payload["tables"] if table["number"] == 11)["curves"]
    assert [line["row"] for line in curves["lines"]] == ["samples-64"]
    assert path.as_posix() not in payload["artifacts"]


def test_a_printed_column_that_no_table_has_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("reports/published/table01.csv")
    path.write_text(path.read_text().replace(",arc_easy,", ",arc_esay,", 1))
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 1
    assert "line 4: column 'arc_esay': did you mean 'arc_easy'" in capsys.readouterr().err


def test_a_csv_without_a_definition_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "out/tables/table77.csv", "--spec", json.dumps(SPEC)]) == 1
    assert "no definition of 'table77' was given" in capsys.readouterr().err


def test_cells_on_a_tampered_score_are_missing_with_the_reason(arguments: list[str]) -> None:
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 0
    before = {cell["id"]: cell for cell in read_json(Path("out/tables.json"))["cells"]}
    path = next(
        c["source"]["path"]
        for c in before.values()
        if c["column"] == "arc_easy" and c["source"] and "/scores/" in c["source"]["path"]
    )
    Path(path).write_text(Path(path).read_text().replace('"n": ', '"n": 1'))
    assert main([*arguments, "--spec", json.dumps(SPEC)]) == 0
    payload = read_json(Path("out/tables.json"))
    after = {cell["id"]: cell for cell in payload["cells"]}
    turned = [
        name
        for name in before
        if before[name]["status"] == "measured" and after[name]["status"] == "missing"
    ]
    assert turned and all(after[name]["value"] is None for name in turned)
    assert {after[name]["reason"] for name in turned if after[name]["column"] == "arc_easy"} == {
        f"{path}: was changed after evaluate_harness wrote it"
    }
    assert path not in payload["artifacts"]
