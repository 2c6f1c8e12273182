"""Provenance records: what made a file, from what, with which code, settings and machine.

Every output ``X`` of a step has a record ``X.record.json`` beside it, written before ``X`` itself
gets its final name, so a file without a record is never the product of a finished step. Records
name their inputs by SHA-256 and thereby chain back to pinned downloads. Payloads hold no
times, so that two runs give the same bytes; the exception is ``overheads.json``, whose subject is
time.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lpsteps import object_storage
from lpsteps.artifacts import (
    GENERATED_FOLDERS,
    canonical_json,
    read_json,
    sha256_bytes,
    sha256_file,
)
from lpsteps.errors import LpstepsError

SCHEMA = 1
SEAL = "record_sha256"
RECORD_SUFFIX = ".record.json"
LOCK_FILE = Path("requirements.lock")
GIT_STATE = "LPSTEPS_GIT_STATE"
"""Environment variable: the state of the checkout, for jobs that have the code without it."""


def record_path(output: Path) -> Path:
    """Return where the record of an output lies."""
    return output.with_name(output.name + RECORD_SUFFIX)


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with the hash of its own content, so that an edited record shows."""
    content = {key: value for key, value in record.items() if key != SEAL}
    return {**content, SEAL: sha256_bytes(canonical_json(content).encode())}


def read_record(output: Path) -> dict[str, Any]:
    """Read the record of an output.

    Raises:
        LpstepsError: There is none, it was edited, or it has another schema.
    """
    path = record_path(output)
    record = read_json(path)
    if record.get("schema") != SCHEMA:
        raise LpstepsError(
            f"{path}: schema {record.get('schema')!r}, expected {SCHEMA}; delete it to rebuild"
        )
    if seal(record)[SEAL] != record.get(SEAL):
        raise LpstepsError(f"{path}: was edited after the step wrote it; delete it to rebuild")
    return record


def check_recorded(path: Path, sha256: str) -> None:
    """Check a file against the record beside it, where it has one: disks and people change files.

    Args:
        path: The file, as its step was told it.
        sha256: Its hash as it is now.

    Raises:
        LpstepsError: It is not what its step wrote, or the record was edited.
    """
    if not record_path(path).is_file():
        return
    record = read_record(path)
    recorded = {entry["path"]: entry["sha256"] for entry in record["outputs"]}
    if recorded.get(str(path), sha256) != sha256:
        raise LpstepsError(
            f"{path}: was changed after {record['rule']} wrote it; delete it, then run the same "
            "command again"
        )


@functools.cache
def git_state(folder: Path, *, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return commit, its day and the dirty flag of the checkout, or an empty dict outside of one.

    The day is that of the commit in UTC, as ``YYYY-MM-DD``. Jobs that run elsewhere are told it.

    Args:
        folder: The checkout's top folder.
        besides: Paths in it that may be edited without making it dirty.
    """
    told: dict[str, Any] | None = json.loads(os.environ.get(GIT_STATE, "null"))
    if told is not None:
        return told

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        environment = {**os.environ, "TZ": "UTC"}
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return run.stdout

    try:
        show = git("log", "-1", "--format=%H %cd", "--date=format-local:%Y-%m-%d")
        left_out = [f":(exclude){path}" for path in besides]
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", *left_out)
        # New files count where code is. Profiles and tables are no code, and each run has its own.
        changes += git("ls-files", "--others", "--exclude-standard", "--", "lpsteps", "workflow")
    except (OSError, subprocess.CalledProcessError):
        return {}
    commit, day = show.split()
    return {"commit": commit, "date": day, "dirty": bool(changes)}


def imported_libraries() -> dict[str, str]:
    """Return the versions of the third-party packages that this process has imported."""
    versions: dict[str, str] = {}
    for name in sorted({module.partition(".")[0] for module in sys.modules}):
        if name.startswith("_") or name in sys.stdlib_module_names or name == "lpsteps":
            continue
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A few packages import under another name than they install under (yaml, PIL).
            version = getattr(sys.modules.get(name), "__version__", None)
            if isinstance(version, str):
                versions[name] = version
    return versions


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Return processor, usable cores, memory in bytes and system, and what is used of GPUs.

    Where torch sees a GPU these are the name of this process's own and the number of those on which
    it has put anything.
    """
    facts: dict[str, Any] = {
        "processor": _processor_name(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        devices = range(torch.cuda.device_count())
        facts["gpus"] = sum(torch.cuda.max_memory_allocated(device) > 0 for device in devices)
    return facts


def peak_memory_bytes() -> int:
    """Return the largest resident size that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Artifact:
    """A file in the lineage of a number.

    Attributes:
        path: Relative to the project.
        sha256: Hash of its bytes as they are now.
        bytes: Its size.
        record: The record of the step that made it; None for a source file such as a template.
        target: What to ask Snakemake for to make it again: itself, or the manifest of its folder.
    """

    path: Path
    sha256: str
    bytes: int
    record: dict[str, Any] | None
    target: Path

    @property
    def inputs(self) -> tuple[tuple[Path, str], ...]:
        """Path and recorded hash of each file that it was made from."""
        entries = self.record["inputs"] if self.record else []
        return tuple((Path(entry["path"]), str(entry["sha256"])) for entry in entries)


class Lineage:
    """Verified files and what they were made from, back to pinned downloads.

    Each file is hashed once, however many numbers depend on it.
    """

    def __init__(self) -> None:
        """Start with nothing verified."""
        self.artifacts: dict[Path, Artifact] = {}
        self._problems: dict[Path, str | None] = {}

    def _record_of(self, path: Path) -> tuple[dict[str, Any] | None, Path]:
        """Find the record that speaks for a file, its own or that of a manifest above it."""
        for speaker in (path, *(folder / "manifest.json" for folder in path.parents)):
            if record_path(speaker).is_file():
                return read_record(speaker), speaker
        if path.parts[0] in GENERATED_FOLDERS:
            raise LpstepsError(f"{record_path(path)}: missing, so nothing tells what made {path}")
        return None, path

    def _find(self, path: Path) -> None:
        """Check that a file is there, or stays in object storage, where large ones are left.

        These are what a manifest speaks for: each step that read them has compared them with it.
        """
        manifest = object_storage.manifest_of(path)
        if manifest is not None and not path.is_file():
            object_storage.unpack(manifest)
        stays_away = object_storage.in_use() and path.parts[0] in GENERATED_FOLDERS
        if not path.is_file() and not (manifest and stays_away):
            raise LpstepsError(f"{path}: missing")

    def _verify(self, path: Path) -> None:
        self._find(path)
        record, target = self._record_of(path)
        outputs = record["outputs"] if record else []
        recorded = {Path(entry["path"]): (entry["sha256"], entry["bytes"]) for entry in outputs}
        if record and path not in recorded:
            raise LpstepsError(f"{path}: its record is that of {', '.join(map(str, recorded))}")
        sha256, size = (
            (sha256_file(path), path.stat().st_size) if path.is_file() else recorded[path]
        )
        artifact = Artifact(path, sha256, size, record, target)
        self.artifacts[path] = artifact
        if record is None:
            return
        if recorded[path][0] != artifact.sha256:
            raise LpstepsError(f"{path}: was changed after {record['rule']} wrote it")
        for source, digest in artifact.inputs:
            problem = self.problem(source)
            if problem is not None:
                raise LpstepsError(problem)
            if self.artifacts[source].sha256 != digest:
                raise LpstepsError(f"{source}: is not the file that {path} was made from")

    def problem(self, path: Path) -> str | None:
        """Return the first thing that is wrong with a file or anything behind it, or None.

        Checked are: the file exists, has an unedited record (unless it is a source file), has the
        hash that its record states, and each input is still the one that was read.
        """
        if path not in self._problems:
            self._problems[path] = None
            try:
                self._verify(path)
            except LpstepsError as error:
                self._problems[path] = str(error)
        return self._problems[path]

    def behind(self, paths: Iterable[Path]) -> list[Artifact]:
        """Return the verified files from which some files were made, those included, by path."""
        pending, found = list(paths), dict[Path, Artifact]()
        while pending:
            path = pending.pop()
            if path not in found and self.problem(path) is None:
                found[path] = self.artifacts[path]
                pending.extend(source for source, _ in found[path].inputs)
        return [found[path] for path in sorted(found)]
