"""Pinned downloads from the Hugging Face Hub, for those who have access to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lpsteps.data.extract import select_columns
from lpsteps.errors import LpstepsError

if TYPE_CHECKING:
    import pyarrow as pa

_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt"]


def hub_table(
    repo: str,
    revision: str,
    config: str | None,
    split: str,
    files: Mapping[str, str] | None,
    columns: Sequence[str],
) -> pa.Table:
    """Read one split of a dataset.

    Args:
        repo: Repository, ``owner/name``.
        revision: Full commit hash.
        config: Name of the dataset's configuration, None when it has only one.
        split: Name of the split on the Hub.
        files: Files to read by split, for repositories too large to fetch whole.
        columns: The columns to keep.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses, or a column is missing.
    """
    import datasets

    data_files = None if files is None else {split: files[split]}
    try:
        dataset = datasets.load_dataset(
            repo, config, split=split, revision=revision, data_files=data_files
        )
    except (OSError, ValueError, RuntimeError) as error:
        remedy = "set data_root to a folder with local files"
        raise _unreachable(repo, revision, error, remedy) from error
    table: pa.Table = dataset.with_format("arrow")[:]
    return select_columns(table, columns, repo)


def hub_model(repo: str, revision: str, folder: Path, with_code: bool) -> None:
    """Download a model: configuration, safetensors and tokenizer files of the top folder.

    Args:
        repo: Repository, ``owner/name``.
        revision: Full commit hash.
        folder: An existing folder for the files.
        with_code: Also fetch the Python files that some models bring along.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses.
    """
    import shutil

    from huggingface_hub import snapshot_download

    patterns = [*_MODEL_FILES, *(["*.py"] if with_code else [])]
    try:
        snapshot_download(
            repo,
            revision=revision,
            local_dir=folder,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable(repo, revision, error, "use a local folder as source") from error
    # What the download keeps to resume itself is no part of the model.
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _unreachable(repo: str, revision: str, error: Exception, remedy: str) -> LpstepsError:
    problem = str(error).strip().splitlines() or [type(error).__name__]
    return LpstepsError(
        f"{repo} at {revision[:12]}: the Hub did not deliver it ({problem[0]}); check the network, "
        f"accept the licence on its page and log in (`hf auth login` or HF_TOKEN), or {remedy}"
    )
