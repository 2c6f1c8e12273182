"""A step's outputs appear whole, with records, or not at all."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from lpsteps import fingerprint, program
from lpsteps.errors import LpstepsError
from lpsteps.program import parse_spec, run_step

MODULE = "lpsteps.errors"  # any module of the package can stand for a step


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(body, *argv: str) -> int:
    def add_arguments(parser):
        parser.add_argument("--input", type=Path, default=Path("input.txt"))
        parser.add_argument("--output", type=Path, default=Path("out/output.txt"))

    return run_step(MODULE, ["--log", "log/step.log", *argv], add_arguments, body)


def copy(step, arguments):
    text = step.read(arguments.input).read_text()
    step.note("length", len(text))
    step.write(arguments.output).write_text(text)


def leftovers() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*partial*"))


def test_success_writes_output_record_and_log():
    Path("input.txt").write_text("abc")
    assert run(copy, "--spec", "{'a': True, 'modules': ['lpsteps.artifacts']}") == 0
    assert Path("out/output.txt").read_text() == "abc"
    record = json.loads(Path("out/output.txt.record.json").read_text())
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert record["inputs"] == [{"path": "input.txt", "sha256": abc, "bytes": 3}]
    assert record["outputs"] == [{"path": "out/output.txt", "sha256": abc, "bytes": 3}]
    assert record["spec"] == {"a": True, "modules": ["lpsteps.artifacts"]}
    assert set(record["code"]) == {"lpsteps", "lpsteps.errors", "lpsteps.artifacts"}
    assert record["notes"] == {"length": 3}
    assert record["libraries"]["pytest"]
    assert record["peak_memory_bytes"] > 1e6
    assert record["command"][1:4] == ["-m", MODULE, "--log"]
    assert "finished" in Path("log/step.log").read_text()
    assert leftovers() == []


def test_missing_input_is_one_line_and_keeps_the_old_output(capsys):
    Path("out").mkdir()
    Path("out/output.txt").write_text("old")
    assert run(copy) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: errors: input.txt: no such file") and error.count("\n") == 1
    assert Path("out/output.txt").read_text() == "old"


def test_unexpected_error_keeps_traceback_for_the_log(capsys):
    Path("input.txt").write_text("abc")

    def fail(step, arguments):
        copy(step, arguments)
        raise ZeroDivisionError("nought")

    assert run(fail) == 1
    error = capsys.readouterr().err
    assert (
        "ZeroDivisionError: nought; details in log/step.log" in error and "Traceback" not in error
    )
    assert "Traceback" in Path("log/step.log").read_text()
    assert not Path("out/output.txt").exists() and leftovers() == []


def test_termination_leaves_nothing_behind(capsys):
    Path("input.txt").write_text("abc")

    def killed(step, arguments):
        copy(step, arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    assert run(killed) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not Path("out/output.txt").exists() and leftovers() == []


def test_code_that_changes_meanwhile_is_refused(capsys, monkeypatch):
    """The record could not name the code that ran, even if the edit is taken back later."""
    Path("input.txt").write_text("abc")
    before = fingerprint.closure

    def edited(modules):
        return {**before(modules), "lpsteps.errors": "edited"}

    def race(step, arguments):
        copy(step, arguments)
        monkeypatch.setattr(fingerprint, "closure", edited)

    assert run(race) == 1
    assert "lpsteps.errors: its code changed while" in capsys.readouterr().err
    assert not Path("out/output.txt").exists() and leftovers() == []


def test_code_of_a_shared_result_is_that_of_the_plan(capsys, monkeypatch):
    Path("input.txt").write_text("abc")
    planned = fingerprint.package_digests()
    assert planned.keys() > fingerprint.closure(["lpsteps.program"]).keys()
    monkeypatch.setenv(program.PLANNED_CODE, json.dumps(planned))
    assert run(copy) == 0
    monkeypatch.setenv(program.PLANNED_CODE, json.dumps({**planned, "lpsteps.errors": "other"}))
    assert run(copy) == 1
    assert "lpsteps.errors: its code changed since this run was planned" in capsys.readouterr().err


def test_input_that_changes_meanwhile_is_refused(capsys):
    Path("input.txt").write_text("abc")

    def race(step, arguments):
        copy(step, arguments)
        arguments.input.write_text("changed")

    assert run(race) == 1
    assert "input.txt: changed while" in capsys.readouterr().err
    assert not Path("out/output.txt").exists()


def test_unwritten_output_is_an_error(capsys):
    assert run(lambda step, arguments: step.write(arguments.output)) == 1
    assert "ended without writing it" in capsys.readouterr().err


def test_folder_appears_whole_with_a_record_of_all_files():
    def fill(step, arguments):
        folder = step.write_folder(Path("store/manifest.json"))
        (folder / "b.bin").write_bytes(b"b")
        (folder / "manifest.json").write_text("{}")

    assert run(fill) == 0
    assert sorted(path.name for path in Path("store").iterdir()) == [
        ".outputs.json",
        "b.bin",
        "manifest.json",
        "manifest.json.record.json",
    ]
    record = json.loads(Path("store/manifest.json.record.json").read_text())
    assert [entry["path"] for entry in record["outputs"]] == ["store/b.bin", "store/manifest.json"]


def test_spec_is_json_or_python_literal():
    assert parse_spec('{"a": null}') == parse_spec("{'a': None}") == {"a": None}
    for text in ("[1]", "{", "__import__('os')"):
        with pytest.raises(LpstepsError, match="--spec"):
            parse_spec(text)


def test_files_of_a_folder_are_readable_as_others_are():
    def body(step, arguments):
        folder = step.write_folder(Path("store/manifest.json"))
        (folder / "new").write_bytes(b"x")
        (folder / "new").chmod(0o600)
        (folder / "manifest.json").write_text("{}")

    assert run(body) == 0
    modes = {Path("store", name).stat().st_mode & 0o777 for name in ("new", "manifest.json")}
    assert len(modes) == 1


def test_what_comes_afterwards_waits_for_the_outputs():
    Path("input.txt").write_text("abc")
    seen = []

    def body(step, arguments):
        copy(step, arguments)
        step.afterwards(lambda: seen.append(arguments.output.is_file()))

    assert run(body) == 0
    assert seen == [True]


def test_nothing_comes_afterwards_when_the_step_fails():
    seen = []

    def body(step, arguments):
        step.afterwards(lambda: seen.append(True))
        step.write(arguments.output)

    assert run(body) == 1
    assert seen == []


def test_a_full_disk_is_one_line_that_says_what_to_do(capsys):
    def body(step, arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run(body) == 1
    assert capsys.readouterr().err == (
        "error: errors: no space left on the disk; free some, then run the same command again; "
        "details in log/step.log\n"
    )


def test_a_disk_that_fills_up_while_records_are_written_leaves_nothing(monkeypatch):
    def body(step, arguments):
        step.write(arguments.output).write_text("x")

    def fill(path, payload):
        path.write_text("half a rec")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lpsteps.program.write_json", fill)
    assert run(body) == 1
    assert list(Path().rglob(".partial-*")) == []


def test_records_of_an_earlier_run_are_replaced_together(monkeypatch):
    outputs = [Path("a.txt"), Path("b.txt")]

    def body(step, arguments):
        for path in outputs:
            step.write(path).write_text("x")

    assert run(body) == 0
    records = [path.with_name(f"{path.name}.record.json") for path in outputs]
    before = [path.read_bytes() for path in records]
    write = program.write_json

    def fill(path, payload):
        if "b.txt" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, payload)

    monkeypatch.setattr(program, "write_json", fill)
    assert run(body, "--spec", "{'another': 1}") == 1
    assert [path.read_bytes() for path in records] == before and leftovers() == []
