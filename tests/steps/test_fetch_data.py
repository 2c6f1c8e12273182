"""fetch_data: the same table from an archive, a local file and the Hub."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpsteps.artifacts import file_manifest, read_json, verify_file_manifest, write_json
from lpsteps.steps import fetch_data

ROWS = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
COLUMNS = ["text", "label"]


def _run(root: Path, splits: dict[str, Any], *more: str, output: str = "data") -> int:
    spec = {"dataset": "tiny", "columns": COLUMNS, "splits": splits}
    manifest = root / output / "manifest.json"
    return fetch_data.main(["--manifest", str(manifest), "--spec", json.dumps(spec), *more])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    names = []
    for number, row in enumerate(ROWS):
        path = folder / f"tiny/{number}/data.arrow"
        path.parent.mkdir(parents=True)
        table = pa.Table.from_pylist([{**row, "more": 1}])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        names.append(str(path.relative_to(folder)))
    write_json(folder / "manifest.json", file_manifest(folder, names))
    return folder / "manifest.json"


def test_all_sources_give_the_same_bytes(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps({"other": None, **row}) + "\n" for row in ROWS)
    (tmp_path / "tiny.jsonl").write_text(lines)
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **settings: Any) -> Any:
        import datasets

        asked.append((arguments, settings))
        return datasets.Dataset.from_list(ROWS)

    def hf_hub_download(*arguments: Any, **settings: Any) -> str:
        asked.append((arguments, settings))
        return str(tmp_path / "tiny.jsonl")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    member = {"format": "arrow", "member": "tiny/*/data.arrow"}
    assert _run(tmp_path, {"test": member}, "--archive", str(archive), output="one") == 0
    assert _run(tmp_path, {"test": {"path": str(tmp_path / "tiny.jsonl")}}, output="two") == 0
    hub = {"repo": "owner/tiny", "revision": "c" * 40, "config": "small", "split": "test"}
    assert _run(tmp_path, {"test": hub}, output="three") == 0
    files = {"test": "test.json", "train": "train.json"}
    assert _run(tmp_path, {"test": {**hub, "files": files}}, output="four") == 0
    manifests = [
        verify_file_manifest(tmp_path / n / "manifest.json")
        for n in ("one", "two", "three", "four")
    ]
    assert all(manifest == manifests[0] for manifest in manifests)
    assert manifests[0]["splits"] == {"test": {"rows": 2}}
    assert pq.read_table(tmp_path / "one/test.parquet").to_pylist() == ROWS
    revision = {"revision": "c" * 40}
    assert asked == [
        (("owner/tiny", "small"), {"split": "test", **revision}),
        (("owner/tiny", "test.json"), {"repo_type": "dataset", **revision}),
    ]


def test_race_from_the_hub_has_its_questions_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [{"question": "Who's there?", "answer": "B", "options": ["a", "b"]}]
    lines = [{"article": "x", "problems": problems}, {"article": "y", "problems": str(problems)}]
    (tmp_path / "race.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: tmp_path / "race.jsonl")
    hub = {"repo": "a/b", "revision": "c" * 40, "split": "test", "files": {"test": "race.jsonl"}}
    spec = {"dataset": "race", "columns": ["article", "problems"]}
    spec["splits"] = {"test": {**hub, "format": "race-jsonl"}}
    manifest = tmp_path / "data" / "manifest.json"
    assert fetch_data.main(["--manifest", str(manifest), "--spec", json.dumps(spec)]) == 0
    rows = pq.read_table(tmp_path / "data/test.parquet").to_pylist()
    assert [ast.literal_eval(row["problems"]) for row in rows] == [problems, problems]


def test_the_record_names_the_members_that_were_read(tmp_path: Path, archive: Path) -> None:
    member = {"format": "arrow", "member": "tiny/1/data.arrow"}
    assert _run(tmp_path, {"test": member}, "--archive", str(archive)) == 0
    record = read_json(tmp_path / "data" / "manifest.json.record.json")
    inputs = {Path(entry["path"]) for entry in record["inputs"]}
    assert inputs == {archive, archive.parent / "tiny/1/data.arrow"}


def test_a_changed_member_is_not_used(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = {"format": "arrow", "member": "tiny/1/data.arrow"}
    with (archive.parent / "tiny/1/data.arrow").open("ab") as stream:
        stream.write(b"x")
    assert _run(tmp_path, {"test": member}, "--archive", str(archive)) == 1
    assert "data.arrow: sha256 is" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"path": "missing.parquet"}, "missing.parquet: no such file; add it or correct data_root"),
        ({"format": "arrow", "member": "x"}, "splits.test: an archive split needs --archive"),
        ({"path": "{root}/bad.jsonl"}, "bad.jsonl: no column 'label'"),
        ({"path": "{root}/empty.jsonl"}, "empty.jsonl: no column 'text'"),
        ({"path": "{root}/bad.jsonl", "format": "csv"}, "format: csv: allowed: arc-requests"),
        ({"repo": "a/b", "revision": "main", "split": "test"}, "splits.test.revision: 'main'"),
        ({"file": "x.parquet"}, "splits.test.file: unknown key, allowed: format, path"),
        ({}, "splits.test.path"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: dict[str, str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    filled = {key: value.format(root=tmp_path) for key, value in split.items()}
    assert _run(tmp_path, {"test": filled}) == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_an_unreachable_hub_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    hub = {"repo": "owner/tiny", "revision": "c" * 40, "split": "test"}
    assert _run(tmp_path, {"test": hub}) == 1
    output = capsys.readouterr().err
    assert "owner/tiny at cccccccccccc: the Hub did not deliver it (no route)" in output
    assert "set data_root" in output
    assert output.count("\n") == 1
