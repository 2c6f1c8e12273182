"""Troubles of the machine: no room on the disk, no memory, no permission, a clock that jumps."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.forked import run_job
from faults.outcome import Outcome, Sandbox, judge, outputs

MEGABYTE = 1 << 20
DAY = 86400.0


def full_disk(sandbox: Sandbox, jobs: Sequence[dict[str, Any]]) -> Iterator[Outcome]:
    """Run each job on a file system that has room for its inputs and for a part of its outputs."""
    for job in jobs:
        size = sum(entry["bytes"] for entry in job["outputs"])
        for room in (0, size // 2):
            with _small_disk(sandbox, job, room) as disk:
                if disk is None:
                    yield Outcome("disk full", job["rule"], "not tried", "only root may mount one")
                    continue
                run = run_job(disk.root, job)
                left = [name for name in outputs(job) if (disk.root / name).is_file()]
                if run.status == 0:
                    yield Outcome("disk full", job["rule"], "finished")
                elif run.told and not left and not disk.leftovers():
                    yield Outcome("disk full", job["rule"], "told", run.output.strip())
                else:
                    detail = f"{run.output[-400:]!r}, left {left} {disk.leftovers()}"
                    yield Outcome("disk full", job["rule"], "wrong", detail)


@contextmanager
def _small_disk(sandbox: Sandbox, job: dict[str, Any], room: int) -> Iterator[Sandbox | None]:
    """A file system of a few pages with a job's inputs, its log and `room` bytes, or None."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = [Path(entry["path"]) for entry in job["inputs"]]
        sizes = [(sandbox.root / path).stat().st_size for path in inputs]
        pages = sum(-(-size // 4096) for size in sizes) + 40 + 2 * len(inputs)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={pages * 4096 + room}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            yield None
            return
        try:
            for path in inputs:
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(sandbox.root / path, Path(folder) / path)
            shutil.copyfile(sandbox.root / "requirements.lock", Path(folder, "requirements.lock"))
            fill = Path(folder, "fill")
            free = os.statvfs(folder).f_bavail * 4096 - room
            fill.write_bytes(b"\0" * max(free - 2 * 4096, 0))
            yield Sandbox(Path(folder))
        finally:
            subprocess.run(["umount", folder], check=True)


def file_size_limit(sandbox: Sandbox, jobs: Sequence[dict[str, Any]]) -> Iterator[Outcome]:
    """Run each job where no file may grow beyond a part of its largest output."""
    for job in jobs:
        largest = max(entry["bytes"] for entry in job["outputs"])
        for limit in (0, largest // 2):
            sandbox.remove_outputs(job)

            def prepare(limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

            run = _silently(sandbox, job, prepare)
            yield judge("files may not grow", job, run, sandbox)


def _silently(sandbox: Sandbox, job: dict[str, Any], prepare: Callable[[], None]) -> Any:
    """Run a job whose log is no file, so that a limit of files hits its results alone."""
    command = list(job["command"])
    place = command.index("--log")
    del command[place : place + 2]
    return run_job(sandbox.root, {**job, "command": command}, prepare=prepare)


def little_memory(
    sandbox: Sandbox, jobs: Sequence[dict[str, Any]], megabytes: Sequence[int]
) -> Iterator[Outcome]:
    """Run each job with so much address space beyond what its libraries take."""
    for job in jobs:
        for more in megabytes:
            sandbox.remove_outputs(job)

            def prepare(more: int = more) -> None:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + more * MEGABYTE
                resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

            run = run_job(sandbox.root, job, prepare=prepare)
            yield judge(f"{more} MB of memory", job, run, sandbox)


def read_only_folders(sandbox: Sandbox, jobs: Sequence[dict[str, Any]]) -> Iterator[Outcome]:
    """Run each job where it may not write into the folder of its outputs."""
    for job in jobs:
        sandbox.remove_outputs(job)
        folders = {(sandbox.root / name).parent for name in outputs(job)}
        folders |= {folder.parent for folder in folders}
        for folder in folders:
            folder.chmod(0o555)
        run = run_job(sandbox.root, job, prepare=_obey_permissions)
        for folder in folders:
            folder.chmod(0o755)
        yield judge("folder is read-only", job, run, sandbox)


def _obey_permissions() -> None:
    """Give up root's right to write anywhere, and stay root; nothing changes for other users."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version_3 = 0x20080522
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def jumping_clock(sandbox: Sandbox, jobs: Sequence[dict[str, Any]], seed: int) -> Iterator[Outcome]:
    """Run each job on inputs from the future, and with outputs older than they are."""
    generator = random.Random(seed)
    for job in jobs:
        for entry in job["inputs"]:
            moment = time.time() + generator.uniform(-1000 * DAY, 1000 * DAY)
            os.utime(sandbox.root / entry["path"], (moment, moment))
        sandbox.remove_outputs(job)
        run = run_job(sandbox.root, job, prepare=_turn_the_clock_back)
        yield judge("clock goes backwards", job, run, sandbox)


def _turn_the_clock_back() -> None:
    """Let the time of day run backwards in this process, a minute with every look at it."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 60
        return now[0]

    time.time = earlier
