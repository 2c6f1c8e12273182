"""Uploading an export to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from lpsteps.artifacts import verify_file_manifest
from lpsteps.errors import LpstepsError, first_line
from lpsteps.export.delivery import MANIFEST
from lpsteps.provenance import record_path


def push_to_hub(folder: Path, repo: str, *, private: bool) -> str:
    """Upload an export as one commit; the repository is made where there is none.

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
            commit_message=f"Export of {manifest['export']}",
        )
    # The client's HTTP and storage libraries raise kinds of their own, without a common base.
    except Exception as error:
        raise LpstepsError(
            f"--push-to-hub: {repo}: {first_line(error)}; the export is in {folder}, log in with "
            "`hf auth login` if that is what is missing, and run the command again with --force"
        ) from error
    return str(commit.commit_url)
