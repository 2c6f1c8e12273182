"""Putting a finished checkpoint where the user wants it, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from lpsteps.artifacts import flush_to_disk, read_json, verify_file_manifest
from lpsteps.errors import LpstepsError
from lpsteps.provenance import record_path

MANIFEST = "manifest.json"


def check_target(target: Path, *, replace: bool) -> None:
    """Check, before anything is computed, that an export may be put into a folder.

    Args:
        target: The folder.
        replace: Whether an export that is there may be replaced.

    Raises:
        LpstepsError: It is a file, is the project's own folder or one around it, or holds something
            else than an export, or an export that is not to be replaced.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise LpstepsError(f"--to: {target}: not a folder; name a new one")
    if Path.cwd().is_relative_to(target.resolve()):
        raise LpstepsError(f"--to: {target}: the project lies in it; name a new folder")
    if not target.exists() or not any(target.iterdir()):
        return
    manifest = target / MANIFEST
    content = read_json(manifest) if manifest.is_file() else {}
    if "export" not in content:
        raise LpstepsError(f"--to: {target}: is not empty and not an export; name a new folder")
    own = {manifest, record_path(manifest), *(target / name for name in content.get("files", {}))}
    others = sorted(path for path in target.rglob("*") if path.is_file() and path not in own)
    if others:
        raise LpstepsError(
            f"--to: {others[0]}: no part of the export there; move it away or name a new folder"
        )
    if not replace:
        raise LpstepsError(
            f"--to: {target}: holds an export of {content['export']}; --force replaces it"
        )


def deliver(manifest: Path, target: Path, *, replace: bool) -> None:
    """Copy a checkpoint, with its manifest and record, into a folder that appears whole.

    Args:
        manifest: Manifest of the checkpoint.
        target: The folder to make.
        replace: Whether an export that is there may be replaced.

    Raises:
        LpstepsError: `check_target` refuses the folder, a file of the checkpoint is not what the
            manifest says, or nothing can be written there.
    """
    check_target(target, replace=replace)
    source = manifest.parent
    names = [*verify_file_manifest(manifest)["files"], MANIFEST, record_path(manifest).name]
    partial = target.with_name(f".partial-{target.name}")
    replaced = target.with_name(f".replaced-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in names:
            shutil.copyfile(source / name, partial / name)
            flush_to_disk(partial / name)
        verify_file_manifest(partial / MANIFEST)
        flush_to_disk(partial)
        if target.exists():
            # An interrupted replacement may have left one.
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        partial.rename(target)
        flush_to_disk(target.parent)
    except OSError as error:
        raise LpstepsError(f"--to: {target}: cannot be written ({error.strerror})") from error
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
