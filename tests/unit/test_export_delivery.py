"""A checkpoint reaches the user's folder whole, and overwrites nothing but an export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lpsteps.artifacts import file_manifest, write_json
from lpsteps.errors import LpstepsError
from lpsteps.export.delivery import check_target, deliver


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A finished checkpoint of two files."""
    return checkpoint(tmp_path / "results/checkpoint", "one")


def checkpoint(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(content)
    (folder / "README.md").write_text("card")
    head = {"schema": 1, "export": "a/n5/b"}
    write_json(folder / "manifest.json", head | file_manifest(folder, ["config.json", "README.md"]))
    (folder / "manifest.json.record.json").write_text("{}")
    return folder / "manifest.json"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_all_files_arrive_and_nothing_else(manifest: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep/er/target"
    deliver(manifest, target, replace=False)
    assert contents(target) == contents(manifest.parent)
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_an_empty_folder_may_be_there(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    deliver(manifest, tmp_path / "target", replace=False)
    assert contents(tmp_path / "target") == contents(manifest.parent)


def test_an_export_is_replaced_on_request_alone(manifest: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    deliver(manifest, target, replace=False)
    newer = checkpoint(tmp_path / "newer", "two")
    with pytest.raises(LpstepsError, match=r"holds an export of a/n5/b; --force replaces it"):
        deliver(newer, target, replace=False)
    assert (target / "config.json").read_text() == "one"
    deliver(newer, target, replace=True)
    assert contents(target) == contents(newer.parent)
    assert {path.name for path in tmp_path.iterdir()} == {"results", "newer", "target"}


def test_other_folders_are_never_replaced(manifest: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(LpstepsError, match="is not empty and not an export"):
            deliver(manifest, target, replace=replace)
    # A manifest of something else is no export, either.
    (target / "manifest.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(LpstepsError, match="not an export"):
        deliver(manifest, target, replace=True)
    assert (target / "thesis.tex").read_text() == "years of work"


def test_a_file_that_the_user_put_beside_an_export_is_kept(manifest: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    deliver(manifest, target, replace=False)
    (target / "adapter").mkdir()
    (target / "adapter/notes.txt").write_text("mine")
    with pytest.raises(LpstepsError, match=r"adapter/notes\.txt: no part of the export there"):
        deliver(manifest, target, replace=True)
    assert (target / "adapter/notes.txt").read_text() == "mine"


def test_files_links_and_the_project_are_refused(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(LpstepsError, match="not a folder"):
            check_target(tmp_path / name, replace=True)
    monkeypatch.chdir(tmp_path / "results")
    for target in (Path(), Path(".."), tmp_path):
        with pytest.raises(LpstepsError, match="the project lies in it"):
            check_target(target, replace=True)


def test_a_damaged_checkpoint_is_not_delivered(manifest: Path, tmp_path: Path) -> None:
    (manifest.parent / "config.json").write_text("changed")
    with pytest.raises(LpstepsError, match="the file was changed"):
        deliver(manifest, tmp_path / "target", replace=False)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("fails_at", ["config.json", "manifest.json.record.json"])
def test_a_failing_copy_leaves_the_old_export(
    fails_at: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    deliver(manifest, target, replace=False)
    newer = checkpoint(tmp_path / "newer", "two")
    copyfile = shutil.copyfile

    def full_disk(source: Path, destination: Path) -> None:
        if Path(source).name == fails_at:
            raise OSError(28, "No space left on device")
        copyfile(source, destination)

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(LpstepsError, match=r"cannot be written \(No space left on device\)"):
        deliver(newer, target, replace=True)
    assert (target / "config.json").read_text() == "one"
    assert {path.name for path in tmp_path.iterdir()} == {"results", "newer", "target"}


def test_what_a_killed_replacement_left_is_in_nobodys_way(manifest: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    newer = checkpoint(tmp_path / "newer", "two")
    checkpoint(tmp_path / ".replaced-target", "old")
    checkpoint(tmp_path / ".partial-target", "half")
    deliver(manifest, target, replace=False)
    checkpoint(tmp_path / ".replaced-target", "old")
    deliver(newer, target, replace=True)
    assert contents(target) == contents(newer.parent)
    assert {path.name for path in tmp_path.iterdir()} == {"results", "newer", "target"}


@pytest.mark.parametrize(
    ("fault", "raised", "message"),
    [
        (OSError(13, "Permission denied"), LpstepsError, "Permission denied"),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
    ids=["refused", "interrupted"],
)
def test_a_failing_rename_brings_the_old_export_back(
    fault: BaseException,
    raised: type[BaseException],
    message: str,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "target"
    deliver(manifest, target, replace=False)
    newer = checkpoint(tmp_path / "newer", "two")
    rename = Path.rename

    def refused(self: Path, destination: Path) -> Path:
        if self.name == ".partial-target":
            raise fault
        return rename(self, destination)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(raised, match=message):
        deliver(newer, target, replace=True)
    assert (target / "config.json").read_text() == "one"
    assert {path.name for path in tmp_path.iterdir()} == {"results", "newer", "target"}
