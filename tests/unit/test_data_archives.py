"""Unpacking wheels: only what is asked for, never outside the folder, checked by hash."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from lpsteps.data.archives import archive_members, check_sha256, extract_members
from lpsteps.errors import LpstepsError


def _wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_only_matching_members_are_unpacked(tmp_path: Path) -> None:
    members = {
        "pkg/__init__.py": b"raise SystemExit",
        "pkg/data/a/x.arrow": b"1",
        "pkg/y.arrow": b"2",
    }
    wheel = _wheel(tmp_path / "w.whl", members)
    folder = tmp_path / "out"
    names = extract_members(wheel, ["pkg/data/**/*.arrow", "pkg/y.arrow", "*y.arrow"], folder)
    assert names == ["pkg/data/a/x.arrow", "pkg/y.arrow"]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(names)
    assert (folder / "pkg/y.arrow").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:evil"])
def test_a_member_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    wheel = _wheel(tmp_path / "w.whl", {name: b"x"})
    folder = tmp_path / "deep" / "out"
    with pytest.raises(LpstepsError, match=r"w\.whl: member .* outside the folder"):
        extract_members(wheel, ["*evil"], folder)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_pattern_without_a_match_is_named(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "w.whl", {"a": b"x"})
    with pytest.raises(LpstepsError, match=r"w\.whl: no member matches 'b\*'"):
        extract_members(wheel, ["a", "b*"], tmp_path / "out")


def test_something_else_than_a_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.whl").write_text("<html>")
    with pytest.raises(LpstepsError, match="not a valid wheel"):
        extract_members(tmp_path / "w.whl", ["*"], tmp_path / "out")


def test_a_wrong_hash_tells_both_hashes(tmp_path: Path) -> None:
    path = tmp_path / "w.whl"
    path.write_bytes(b"content")
    found = hashlib.sha256(b"content").hexdigest()
    check_sha256(path, found)
    with pytest.raises(LpstepsError, match=f"sha256 is {found}, expected {'0' * 64}"):
        check_sha256(path, "0" * 64)


def test_members_are_found_in_order_and_checked(tmp_path: Path) -> None:
    files = {}
    for name in ("b/test/1", "a/test/1", "a/dev/1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        files[name] = {"sha256": hashlib.sha256(name.encode()).hexdigest()}
    found = archive_members(tmp_path, files, "*/test/*")
    assert found == [tmp_path / "a/test/1", tmp_path / "b/test/1"]
    (tmp_path / "b/test/1").write_text("changed")
    with pytest.raises(LpstepsError, match="sha256"):
        archive_members(tmp_path, files, "*/test/*")
    assert archive_members(tmp_path, files, "a/test/1") == [tmp_path / "a/test/1"]
    with pytest.raises(LpstepsError, match="member: c: not in"):
        archive_members(tmp_path, files, "c")
