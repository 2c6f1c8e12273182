"""Readers and deterministic writers for every file format that the workflow passes along.

Equal content gives equal bytes: keys are sorted, no times or paths are stored, compression settings
are fixed. Every writer flushes to disk; :class:`lpsteps.program.StepRun` gives it a temporary name
and renames the file when the step has succeeded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lpsteps.errors import LpstepsError, first_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

GENERATED_FOLDERS = ("resources", "results")
"""Folders with what a run makes, beside its reports."""


def sha256_bytes(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks.

    Raises:
        LpstepsError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise LpstepsError(f"{path}: cannot be read ({error.strerror})") from error


def flush_to_disk(path: Path) -> None:
    """Force the content of ``path`` (a file or a folder) from the page cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(payload: Any) -> str:
    """Return JSON with sorted keys, one key per line and exact floats.

    Raises:
        ValueError: The payload holds NaN or an infinity, which JSON cannot express.
    """
    return json.dumps(payload, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` as canonical JSON."""
    path.write_text(canonical_json(payload), encoding="utf-8")
    flush_to_disk(path)


def read_json(path: Path, remedy: str = "delete it to rebuild it") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        remedy: What to do where it is not one, for a file that no step makes.

    Raises:
        LpstepsError: The file is missing, is not JSON, or holds something else than an object.
    """
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LpstepsError(f"{path}: no such file; make it, or correct the path") from error
    except OSError as error:
        raise LpstepsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise LpstepsError(f"{path}: not valid JSON ({error}); {remedy}") from error
    if not isinstance(payload, dict):
        raise LpstepsError(f"{path}: expected a JSON object; {remedy}")
    return payload


def parquet_options() -> dict[str, Any]:
    """Return the options of all Parquet writers, so that equal tables give equal bytes."""
    return {
        "compression": "zstd",
        "compression_level": 3,
        "version": "2.6",
        "write_statistics": True,
    }


def write_parquet(path: Path, table: pa.Table, row_group_size: int | None = None) -> None:
    """Write a table as Parquet with fixed options."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, row_group_size=row_group_size, **parquet_options())
    flush_to_disk(path)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or the columns of it that are named, in that order.

    Raises:
        LpstepsError: The file is missing, is not Parquet, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Arrow's threads wait for ever where memory does not suffice to start them.
        with pq.ParquetFile(path) as file:
            for column in columns or ():
                if column not in file.schema_arrow.names:
                    raise LpstepsError(f"{path}: no column '{column}'; delete it to rebuild it")
            table = file.read(columns=columns, use_threads=False)
        return table if columns is None else table.select(columns)
    except OSError as error:
        raise LpstepsError(f"{path}: cannot be read ({error})") from error
    except pa.ArrowException as error:
        raise LpstepsError(
            f"{path}: not a valid Parquet file ({first_line(error)}); delete it to rebuild it"
        ) from error


def tensor_digests(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return sha256 (of the raw little-endian values), dtype and shape of each tensor."""
    import numpy as np

    return {
        name: {
            "sha256": sha256_bytes(np.ascontiguousarray(tensor).tobytes()),
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
        }
        for name, tensor in sorted(tensors.items())
    }


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, in the order of their names."""
    import numpy as np
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    path.write_bytes(save(ordered, metadata=dict(metadata or {}) or None))
    flush_to_disk(path)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file.

    Raises:
        LpstepsError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, np.ndarray] = load_file(path)
        return tensors
    except FileNotFoundError as error:
        raise LpstepsError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise LpstepsError(
            f"{path}: not a valid safetensors file ({error}); delete it to rebuild it"
        ) from error


def verified_tensors(
    path: Path, listed: Mapping[str, Mapping[str, Any]], manifest_path: Path
) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file and check each against its digest.

    Args:
        path: The file.
        listed: What :func:`tensor_digests` gave for the tensors that it must hold.
        manifest_path: Where they are listed, for messages.

    Raises:
        LpstepsError: The file is missing or damaged, or a tensor is absent, unexpected or differs
            from its digest.
    """
    tensors = read_tensors(path)
    digests = tensor_digests(tensors)
    for name in sorted(listed.keys() | digests.keys()):
        if digests.get(name) != listed.get(name):
            raise LpstepsError(
                f"{path}: {name}: not the tensor that {manifest_path} lists; "
                "delete both to rebuild them"
            )
    return tensors


def file_manifest(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return ``{"files": {name: {"sha256", "bytes"}}}`` for files of ``folder``."""
    return {
        "files": {
            name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
            for name in sorted(names)
        }
    }


def listed_files(manifest: Mapping[str, Any], manifest_path: Path) -> dict[str, dict[str, Any]]:
    """Return the files that a manifest lists, which lie in its own folder or below.

    Raises:
        LpstepsError: It lists none, or one without a hash, or one in another folder.
    """
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(facts, dict) and isinstance(facts.get("sha256"), str) for facts in files.values()
    ):
        raise LpstepsError(f"{manifest_path}: files: no hashes there; delete it to rebuild it")
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise LpstepsError(
                f"{manifest_path}: files: {name!r}: lies outside of the folder; delete the "
                "manifest to rebuild it"
            )
    return files


def verify_file_manifest(manifest_path: Path) -> dict[str, Any]:
    """Read a manifest and check every file that it lists against its recorded hash.

    Args:
        manifest_path: A JSON file whose ``files`` lie in the same folder.

    Returns:
        The manifest.

    Raises:
        LpstepsError: A file is missing or differs; the message names it and the way out.
    """
    manifest = read_json(manifest_path)
    for name, expected in listed_files(manifest, manifest_path).items():
        path = manifest_path.parent / name
        if not path.is_file():
            raise LpstepsError(
                f"{path}: missing, but {manifest_path} lists it; delete the manifest to rebuild"
            )
        found = sha256_file(path)
        if found != expected["sha256"]:
            raise LpstepsError(
                f"{path}: sha256 is {found}, but {manifest_path} says {expected['sha256']}; "
                "the file was changed, delete the manifest to rebuild it"
            )
    return manifest
