"""Uploading an export to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lpsteps.artifacts import verify_file_manifest
from lpsteps.config import Repository
from lpsteps.errors import LpstepsError, first_line
from lpsteps.export.delivery import MANIFEST
from lpsteps.provenance import record_path


def check_push(repo: str) -> None:
    """Check, before anything is computed, that there is a name and a token to upload with.

    Args:
        repo: Repository, `owner/name`.

    Raises:
        LpstepsError: The name is not that of a repository, there is no valid token, or the Hub
            cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        TypeAdapter(Repository).validate_python(repo)
    except ValidationError as error:
        raise LpstepsError(f"--push-to-hub: {repo}: must be owner/name of a repository") from error
    try:
        HfApi().whoami()
    # As in `push_to_hub`.
    except Exception as error:
        raise LpstepsError(
            f"--push-to-hub: {repo}: {first_line(error)}; log in with `hf auth login` if that is "
            "what is missing"
        ) from error


def push_to_hub(folder: Path, repo: str, *, private: bool) -> str:
    """Upload an export as one commit; the repository is made where there is none.

    The repository then holds the export alone: a file of an earlier one, such as a model class that
    a stock model does not need, would be taken for a part of this one.

    The token is the one that `hf auth login` keeps, or `HF_TOKEN`.

    Args:
        folder: The export.
        repo: Repository, `owner/name`.
        private: Whether a repository that is made now is private.

    Returns:
        The address of the commit.

    Raises:
        LpstepsError: A file is not what the manifest says, there is no valid token, the name is not
            that of a repository, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    manifest = verify_file_manifest(folder / MANIFEST)
    names = [*manifest["files"], MANIFEST, record_path(folder / MANIFEST).name]
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=names,
            delete_patterns="*",
            commit_message=f"Export of {manifest['export']}",
        )
    # The client's HTTP and storage libraries raise kinds of their own, without a common base.
    except Exception as error:
        raise LpstepsError(
            f"--push-to-hub: {repo}: {first_line(error)}; the export is in {folder}, log in with "
            "`hf auth login` if that is what is missing, and run the command again with --force"
        ) from error
    return str(commit.commit_url)
