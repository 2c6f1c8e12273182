"""Uploading an export to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from lpsteps.artifacts import read_json, verify_file_manifest
from lpsteps.config import Repository
from lpsteps.errors import LpstepsError, first_line
from lpsteps.export.delivery import MANIFEST
from lpsteps.machine_faults import raise_machine_fault
from lpsteps.provenance import record_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The Hub puts it into each new repository.
_OF_THE_HUB = ".gitattributes"


def check_push(repo: str, *, replace: bool) -> None:
    """Check, before anything is computed, that an export may be uploaded to a repository.

    Args:
        repo: Repository, `owner/name`.
        replace: Whether whatever the repository holds may be deleted.

    Raises:
        LpstepsError: The name is not that of a repository, there is no valid token, the Hub cannot
            be reached, or the repository holds files that are no part of an export.
    """
    from huggingface_hub import HfApi

    try:
        TypeAdapter(Repository).validate_python(repo)
    except ValidationError as error:
        raise LpstepsError(f"--push-to-hub: {repo}: must be owner/name of a repository") from error
    api = HfApi()
    with _answers(repo, "log in with `hf auth login` if that is what is missing"):
        api.whoami()
    _check_repository(api, repo, replace=replace)


def _check_repository(api: HfApi, repo: str, *, replace: bool) -> None:
    """Check that an upload deletes nothing but an earlier export.

    Raises:
        LpstepsError: The repository holds something else, or the Hub does not say what it holds.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if replace:
        return
    own = {_OF_THE_HUB}
    with _answers(repo, "try again later"):
        try:
            found = set(api.list_repo_files(repo))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            # There is none, or nothing in it.
            return
        manifest = Path(api.hf_hub_download(repo, MANIFEST)) if MANIFEST in found else None
    if manifest is not None:
        own |= _files_of_export(manifest)
    others = sorted(found - own)
    if others:
        raise LpstepsError(
            f"--push-to-hub: {repo}: holds {others[0]}, which is no part of an export and which "
            "the upload would delete; name a new repository, or --force deletes it"
        )


def _files_of_export(manifest: Path) -> set[str]:
    """Return the files of the export that a manifest speaks for, none if it speaks for no export.

    Args:
        manifest: A copy of it.
    """
    try:
        content = read_json(manifest)
    except LpstepsError:
        return set()
    files = content.get("files")
    if "export" not in content or not isinstance(files, dict):
        return set()
    return {*files, MANIFEST, record_path(Path(MANIFEST)).name}


@contextmanager
def _answers(repo: str, remedy: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one line.

    Raises:
        LpstepsError: The Hub cannot be reached or refuses.
    """
    try:
        yield
    # The client's HTTP and storage libraries raise kinds of their own, without a common base.
    except Exception as error:
        raise_machine_fault(error)
        raise LpstepsError(f"--push-to-hub: {repo}: {first_line(error)}; {remedy}") from error


def push_to_hub(folder: Path, repo: str, *, private: bool, replace: bool) -> str:
    """Upload an export as one commit; the repository is made where there is none.

    The repository then holds the export alone: a file of an earlier one, such as a model class that
    a stock model does not need, would be taken for a part of this one.

    The token is the one that `hf auth login` keeps, or `HF_TOKEN`.

    Args:
        folder: The export.
        repo: Repository, `owner/name`.
        private: Whether a repository that is made now is private.
        replace: Whether whatever the repository holds may be deleted, and not an export alone.

    Returns:
        The address of the commit.

    Raises:
        LpstepsError: A file is not what the manifest says, there is no valid token, the name is not
            that of a repository, the repository holds files that are no part of an export, or the
            Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    manifest = verify_file_manifest(folder / MANIFEST)
    names = [*manifest["files"], MANIFEST, record_path(folder / MANIFEST).name]
    api = HfApi()
    # Hours may have passed since `check_push`.
    _check_repository(api, repo, replace=replace)
    remedy = (
        f"the export is in {folder}, log in with `hf auth login` if that is what is missing, and "
        "run the command again with --force"
    )
    with _answers(repo, remedy):
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=names,
            delete_patterns="*",
            commit_message=f"Export of {manifest['export']}",
        )
    return str(commit.commit_url)
