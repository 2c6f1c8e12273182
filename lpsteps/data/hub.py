"""Pinned downloads from the Hugging Face Hub, for those who have access to it."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpsteps.artifacts import sha256_file
from lpsteps.data.extract import select_columns
from lpsteps.errors import LpstepsError
from lpsteps.machine_faults import raise_machine_fault

if TYPE_CHECKING:
    import pyarrow as pa

_DATA_REMEDY = "set data_root to a folder with local files"
_MODEL_REMEDY = "put the model's folder below model_root"

_SHA256_LENGTH = 64

# Other safetensors are the weights once more, for other programs than transformers.
_MODEL_FILES = ["*.json", "model*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt"]


def hub_table(
    repo: str,
    revision: str,
    config: str | None,
    split: str,
    columns: Sequence[str],
) -> pa.Table:
    """Read one split of a dataset.

    Args:
        repo: Repository, ``owner/name``.
        revision: Full commit hash.
        config: Name of the dataset's configuration, None when it has only one.
        split: Name of the split on the Hub.
        columns: The columns to keep.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses, or a column is missing.
    """
    import datasets

    # The Hub's client finds out by itself whether this is a terminal, this library does not.
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    _limit_silence()
    with hub_answers(repo, revision[:12], _DATA_REMEDY):
        dataset = datasets.load_dataset(repo, config, split=split, revision=revision)
    table: pa.Table = dataset.with_format("arrow")[:]
    return select_columns(table, columns, repo)


def hub_file(repo: str, revision: str, name: str) -> Path:
    """Download one file of a dataset, for repositories too large to fetch whole.

    Args:
        repo: Repository, ``owner/name``.
        revision: Full commit hash.
        name: Path in the repository.

    Returns:
        The file, in the cache of the Hub's client.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses.
    """
    from huggingface_hub import hf_hub_download

    _limit_silence()
    with hub_answers(repo, revision[:12], _DATA_REMEDY):
        return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))


def hub_model(repo: str, revision: str, folder: Path, with_code: bool) -> None:
    """Download a model: configuration, safetensors and tokenizer files of the top folder.

    What an earlier call has left in the folder is gone on with.

    Args:
        repo: Repository, ``owner/name``.
        revision: Full commit hash.
        folder: A folder for the files of this commit alone, which is kept when the Hub fails.
        with_code: Also fetch the Python files that some models bring along.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses, delivers a file that is not that of the
            commit, or holds no safetensors weights.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    _limit_silence()
    patterns = [*_MODEL_FILES, *(["*.py"] if with_code else [])]
    with hub_answers(repo, revision[:12], _MODEL_REMEDY):
        snapshot_download(
            repo,
            revision=revision,
            local_dir=folder,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],
        )
        announced = announced_digests(repo, revision)
    for name, digest in announced.items():
        path = folder / name
        if path.is_file() and digest != _digest(path, len(digest)):
            path.unlink()
            raise LpstepsError(
                f"{repo} at {revision[:12]}: {name}: is not the file that this commit has; run the "
                f"same command again, or {_MODEL_REMEDY}"
            )
    if not any(folder.glob("*.safetensors")):
        shutil.rmtree(folder)
        raise LpstepsError(
            f"{repo} at {revision[:12]}: no model*.safetensors there, and pickled weights could "
            f"run code when read; convert them and {_MODEL_REMEDY}"
        )


def announced_digests(repo: str, revision: str) -> dict[str, str]:
    """Return the digests by which a commit of a model names the files of its top folder.

    The Hub's client checks sizes alone.

    Returns:
        By file name the SHA-256 of a large file, or git's SHA-1 of a small one, in hexadecimal.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    return {
        entry.path: entry.blob_id if entry.lfs is None else entry.lfs.sha256
        for entry in HfApi().list_repo_tree(repo, revision=revision)
        if isinstance(entry, RepoFile)
    }


def _digest(path: Path, length: int) -> str:
    """Return the digest of a file, SHA-256 or git's SHA-1 by its length in hexadecimal digits."""
    if length == _SHA256_LENGTH:
        return sha256_file(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@cache
def _limit_silence() -> None:
    """Give up on a hub that is silent: its client asks for some answers with no limit at all."""
    from huggingface_hub import constants, get_session, set_client_factory

    # Its class and its hooks, which heed HF_HUB_OFFLINE, are the business of that library.
    original = get_session()

    def limit(request: Any) -> None:
        limits = request.extensions.get("timeout", {})
        for phase in ("connect", "read", "write", "pool"):
            if limits.get(phase) is None:
                limits[phase] = constants.HF_HUB_DOWNLOAD_TIMEOUT
        request.extensions["timeout"] = limits

    def factory() -> Any:
        return type(original)(
            event_hooks={"request": [*original.event_hooks["request"], limit]},
            follow_redirects=original.follow_redirects,
            timeout=original.timeout,
        )

    set_client_factory(factory)


@contextmanager
def hub_answers(repo: str, commit: str, remedy: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one clear line.

    Args:
        repo: Repository, ``owner/name``.
        commit: What of it is asked for.
        remedy: What to do without the Hub.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses.
    """
    try:
        yield
    # The client's HTTP and storage libraries raise kinds of their own, without a common base.
    except Exception as error:
        raise_machine_fault(error)
        raise _hub_error(repo, commit, error, remedy) from error


def _hub_error(repo: str, commit: str, error: Exception, remedy: str) -> LpstepsError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    subject = f"{repo} at {commit}: the Hub did not deliver it ({lines[0]})"
    if re.search(r"\b40[13]\b|gated", str(error), re.IGNORECASE):
        return LpstepsError(
            f"{subject}; it is gated or private: accept the licence on its page and give your "
            "token (`hf auth login`, or HF_TOKEN in the environment, never in a file), or "
            f"{remedy}"
        )
    if re.search(r"\b(429|50[0234]) [A-Z]", str(error)):
        return LpstepsError(f"{subject}; try again later, or {remedy}")
    return LpstepsError(f"{subject}; check the network and the revision, or {remedy}")
