"""Folders that a step fills: which of the files there are its own, of this run or an earlier one.

A folder is named by a manifest, so a slip on the command line may name one with a user's own files.
What a step removes there is therefore only what an earlier run has listed. Its manifest and record
cannot say so: Snakemake deletes them before it runs the step again. The list has a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lpsteps import object_storage
from lpsteps.artifacts import GENERATED_FOLDERS, read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.provenance import record_path

LISTING = ".outputs.json"
"""Name of the list, in the folder itself."""

PARTIAL = ".partial"
"""How the names of temporary files and folders begin."""

# A network file system keeps a deleted file that is still open under such a name.
_PASSING = (PARTIAL, ".nfs")


def check_folder(folder: Path, outputs: Iterable[Path] = ()) -> None:
    """Check that a folder holds nothing but what an earlier run has put there.

    Args:
        folder: The folder; it need not exist.
        outputs: The files that this run puts there, once they are known.

    Raises:
        LpstepsError: There is another file.
    """
    earlier = _earlier_files(folder)
    if earlier is None:
        earlier = set()
        if not outputs and _is_generated(folder):
            # Of a run before there was a list: whether its files are replaced is not known yet.
            return
        if not _is_generated(folder):
            # A name that happens to be one of the outputs does not make a file ours.
            outputs = ()
    others = sorted(path for path in _files(folder) if path not in earlier | {*outputs})
    if others:
        raise LpstepsError(
            f"--manifest: {folder / object_storage.MANIFEST}: {others[0]} is there, which no "
            "earlier run is known to have put there; move it away, or name a new folder"
        )


def claim(folder: Path, outputs: Iterable[Path]) -> None:
    """List the files that this run is about to put into a folder, beside those of an earlier one.

    Args:
        folder: The folder, which :func:`check_folder` has passed.
        outputs: Its files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_listing(folder, (_earlier_files(folder) or set()) | {*outputs})


def remove_strays(folder: Path, outputs: Iterable[Path]) -> None:
    """Remove the files of an earlier run that this one has not replaced, and what was left behind.

    Args:
        folder: The folder.
        outputs: The files that this run has put there.
    """
    kept = {*outputs}
    earlier = _earlier_files(folder) or set()
    strays = {path for path in earlier - kept if path.is_file() and path not in _own(folder)}
    left_behind = (path for path in folder.rglob(f"{PARTIAL}-*") if path.is_file())
    for path in (*strays, *left_behind):
        path.unlink()
    _write_listing(folder, kept)


def _is_generated(folder: Path) -> bool:
    """Tell whether a folder is the workflow's own, by its path in the project."""
    return folder.parts[0] in GENERATED_FOLDERS


def _own(folder: Path) -> set[Path]:
    """Return what every filled folder has beside the files that its manifest lists."""
    manifest = folder / object_storage.MANIFEST
    return {manifest, record_path(manifest), folder / LISTING}


def _files(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(_PASSING) for part in parts):
            yield path


def _earlier_files(folder: Path) -> set[Path] | None:
    """Return the files that earlier runs have put into a folder, None where nothing tells."""
    if object_storage.in_use() and _is_generated(folder):
        # Copies of what is stored, from several jobs.
        return {*_files(folder)}
    manifest = folder / object_storage.MANIFEST
    # Other programs have files of that name, too, but no record beside it.
    lists = [folder / LISTING, *([manifest] if record_path(manifest).is_file() else [])]
    for path in lists:
        names = _names(path)
        if names is not None:
            return _own(folder) | {folder / name for name in names}
    return None


def _names(path: Path) -> list[str] | None:
    """Return the files that a list or a manifest names, None where it cannot be read."""
    try:
        names = [str(name) for name in read_json(path).get("files", ())]
    except (LpstepsError, TypeError):
        return None
    outside = any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
    return None if outside else names


def _write_listing(folder: Path, files: Iterable[Path]) -> None:
    names = sorted(str(path.relative_to(folder)) for path in {*files} - _own(folder))
    partial = folder / f"{PARTIAL}-{LISTING}"
    try:
        write_json(partial, {"files": names})
        partial.replace(folder / LISTING)
    finally:
        partial.unlink(missing_ok=True)
