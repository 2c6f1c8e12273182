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
from collections.abc import Iterable, Sequence
from pathlib import Path

from lpsteps.errors import LpstepsError

ROOT = "LPSTEPS_STORAGE_ROOT"
"""Environment variable: where Snakemake puts local copies of stored files; none on one machine."""

SUFFIX = ".files"
MANIFEST = "manifest.json"


def in_use() -> bool:
    """Return whether files lie in object storage."""
    return ROOT in os.environ


def use(root: Path) -> None:
    """Make a folder for local copies of stored files the working folder, for this run.

    Args:
        root: The folder, relative to the working folder and below it.

    Raises:
        LpstepsError: There is something else in its place.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.relpath(Path.cwd(), root.parent))
    if not root.is_symlink() and not root.exists():
        root.symlink_to(target)
    elif not root.is_symlink() or root.readlink() != target:
        raise LpstepsError(f"{root}: is no link to the project; delete it")
    os.environ[ROOT] = str(root)


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
    """Give a file a second name: a copy of some gigabytes would be thrown away at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def pack(folder: Path, files: Iterable[Path]) -> None:
    """Lay out the files of a folder so that they travel.

    Args:
        folder: A folder with a ``manifest.json``.
        files: Its files, below it.
    """
    travelling = travelling_folder(folder / MANIFEST)
    shutil.rmtree(travelling, ignore_errors=True)
    travelling.mkdir()
    for file in files:
        if file != folder / MANIFEST:
            _link(file, travelling / file.relative_to(folder))


def unpack(manifest: Path) -> None:
    """Put files that travelled beside the manifest that speaks for them, where they are missing."""
    travelling = travelling_folder(manifest)
    for file in sorted(travelling.rglob("*")):
        target = manifest.parent / file.relative_to(travelling)
        if file.is_file() and not target.exists():
            _link(file, target)


def unpack_arguments(words: Iterable[str]) -> None:
    """Unpack every manifest that a command line names, by ``PATH`` or ``NAME=PATH``."""
    for word in words:
        path = Path(word.rpartition("=")[2])
        if path.name == MANIFEST:
            unpack(path)
