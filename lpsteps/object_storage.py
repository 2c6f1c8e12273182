"""Runs whose files lie in object storage: each job has an empty folder and gets what is declared.

Snakemake brings the inputs of such a job to a folder of its own below ``.snakemake`` and takes its
outputs from there. A link makes that folder the job's working folder, so that every path means
what it means on one machine, in records and in the page as well. The files that a
``manifest.json`` speaks for are not declared one by one, since nobody knows their names beforehand;
they travel as the folder ``NAME.files`` beside the manifest's own folder ``NAME``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from lpsteps.artifacts import GENERATED_FOLDERS, listed_files, read_json, sha256_file
from lpsteps.errors import LpstepsError

ROOT = "LPSTEPS_STORAGE_ROOT"
"""Environment variable: where Snakemake puts local copies of stored files; none on one machine."""

SUFFIX = ".files"
MANIFEST = "manifest.json"

SOURCES = ("Snakefile", "config", "lpsteps", "reports", "workflow")
"""Where everything is that jobs read besides."""


def in_use() -> bool:
    """Return whether files lie in object storage."""
    return ROOT in os.environ


def use(root: Path) -> None:
    """Make a folder for local copies of stored files the working folder, for this run.

    Snakemake uses what it finds there in place of what is stored, and removes it in the end.

    Args:
        root: The folder, relative to the working folder and below it.

    Raises:
        LpstepsError: There is something else in its place, or the working folder has results of
            runs on this machine.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.relpath(Path.cwd(), root.parent))
    if not root.is_symlink() and not root.exists():
        for folder in map(Path, GENERATED_FOLDERS):
            if any(path.is_file() for path in folder.rglob("*")):
                raise LpstepsError(
                    f"{folder}: has results of runs on this machine, which a run with object "
                    "storage would remove; start it in a fresh clone"
                )
        root.symlink_to(target)
    elif not root.is_symlink() or root.readlink() != target:
        raise LpstepsError(f"{root}: is no link to the project; delete it")
    os.environ[ROOT] = str(root)


def check_sources() -> None:
    """Check that git knows all that jobs read besides results: they get no other file.

    Raises:
        LpstepsError: It does not, or there is no checkout.
    """
    command = ["git", "ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise LpstepsError(
            "jobs get the files that git knows, and this is no checkout; clone the repository"
        )
    for name in found.stdout.split("\0"):
        if name:
            raise LpstepsError(f"{name}: jobs get the files that git knows; git add it, or move it")


def project_paths(words: Sequence[str]) -> list[str]:
    """Return a command line with paths as they are on one machine.

    Args:
        words: Options and their values, where paths may stand for local copies of stored files.
    """
    root = os.environ.get(ROOT)
    return list(words) if root is None else [word.replace(f"{root}/", "") for word in words]


def undeclared(manifest: Path) -> Path | None:
    """Return what a job reads beside a manifest, which its rule does not declare on one machine.

    Args:
        manifest: Any file.

    Returns:
        The folder in which its files travel for a ``manifest.json``, the tensors beside an
        ``X.manifest.json``, and None for a file that is no manifest.
    """
    if manifest.name == MANIFEST:
        return travelling_folder(manifest)
    stem = manifest.name.removesuffix(f".{MANIFEST}")
    return None if stem == manifest.name else manifest.with_name(f"{stem}.safetensors")


def travelling_folder(manifest: Path) -> Path:
    """Return the folder in which the files travel that a ``manifest.json`` speaks for."""
    return manifest.parent.with_name(manifest.parent.name + SUFFIX)


def manifest_of(path: Path) -> Path | None:
    """Return the ``manifest.json`` in a file's folder or above it, if there is one besides it."""
    manifests = [folder / MANIFEST for folder in path.parents if (folder / MANIFEST).is_file()]
    return next((manifest for manifest in manifests if manifest != path), None)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name: a copy of some gigabytes would be thrown away at once.

    Jobs of one folder may do so at the same time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    partial.unlink(missing_ok=True)
    try:
        partial.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)
    # Between two names of one file, a rename does nothing.
    partial.unlink(missing_ok=True)


def pack(folder: Path, files: Iterable[Path]) -> None:
    """Lay out the files of a folder so that they travel, or remove those of an earlier run.

    Args:
        folder: A folder with a ``manifest.json``.
        files: Its files, below it.
    """
    travelling = travelling_folder(folder / MANIFEST)
    # Elsewhere, where a step was run by hand, a folder of such a name is somebody's own.
    generated = [Path(name).resolve() for name in GENERATED_FOLDERS]
    ours = in_use() or any(travelling.resolve().is_relative_to(parent) for parent in generated)
    # That of an entry whose own name ends so has a manifest.
    if ours and not (travelling / MANIFEST).exists():
        shutil.rmtree(travelling, ignore_errors=True)
    for file in files if in_use() else ():
        if file != folder / MANIFEST:
            _link(file, travelling / file.relative_to(folder))


def unpack(manifest: Path) -> None:
    """Put the files that a manifest lists beside it, as far as they travelled.

    What is there is kept, but for another version of a file where files lie in object storage: an
    earlier job of the same folder has left it.

    Raises:
        LpstepsError: The manifest is damaged.
    """
    travelling = travelling_folder(manifest)
    if not (manifest.is_file() and travelling.is_dir()):
        return
    for name, facts in listed_files(read_json(manifest), manifest).items():
        source, target = travelling / name, manifest.parent / name
        other = in_use() and target.is_file() and sha256_file(target) != facts["sha256"]
        if source.is_file() and (other or not target.exists()):
            _link(source, target)


def unpack_arguments(words: Iterable[str]) -> None:
    """Unpack every manifest that a command line names, by ``PATH`` or ``NAME=PATH``."""
    for word in words:
        path = Path(word.rpartition("=")[2])
        # One in the working folder itself has no folder with a name beside which files travel.
        if path.name == MANIFEST and path.parent.name:
            unpack(path)
