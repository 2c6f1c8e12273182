"""Uploading an export, to a Hub that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from lpsteps import cli
from lpsteps.artifacts import file_manifest, write_json
from lpsteps.errors import LpstepsError
from lpsteps.export.hub import check_push, push_to_hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A delivered export, and a file that is no part of it."""
    (tmp_path / "config.json").write_text("{}")
    head = {"schema": 1, "export": "a/n5/b"}
    write_json(tmp_path / "manifest.json", head | file_manifest(tmp_path, ["config.json"]))
    (tmp_path / "manifest.json.record.json").write_text("{}")
    (tmp_path / "secret.txt").write_text("mine")
    return tmp_path


def hub(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None = None,
    files: dict[str, str] | None = None,
    cache: Path | None = None,
) -> list[Any]:
    """Put a Hub in place that keeps what it is asked, or refuses.

    Its repository holds ``files``; None where there is none.
    """
    asked: list[Any] = []

    class Hub:
        def whoami(self) -> dict[str, str]:
            asked.append("whoami")
            if error is not None:
                raise error
            return {"name": "me"}

        def list_repo_files(self, repo: str) -> list[str]:
            if error is not None:
                raise error
            if files is None:
                answer: Any = SimpleNamespace(headers={}, request=None)
                raise RepositoryNotFoundError("404 Client Error", response=answer)
            return list(files)

        def hf_hub_download(self, repo: str, name: str) -> str:
            assert files is not None and cache is not None
            (cache / "downloaded").write_text(files[name])
            return str(cache / "downloaded")

        def create_repo(self, repo: str, **options: Any) -> None:
            asked.append((repo, options))
            if error is not None:
                raise error

        def upload_folder(self, **options: Any) -> Any:
            asked.append(options)
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return asked


def test_only_the_files_of_the_export_are_uploaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub(monkeypatch)
    assert push_to_hub(folder, "me/mine", private=True, replace=False) == "https://hub/commit/1"
    created, upload = asked
    assert created == ("me/mine", {"private": True, "exist_ok": True})
    assert upload["repo_id"] == "me/mine"
    assert Path(upload["folder_path"]) == folder
    assert set(upload["allow_patterns"]) == {
        "config.json",
        "manifest.json",
        "manifest.json.record.json",
    }


def test_what_an_earlier_export_left_in_the_repository_is_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub(monkeypatch)
    push_to_hub(folder, "me/mine", private=True, replace=False)
    assert asked[-1]["delete_patterns"] == "*"


EXPORT = json.dumps({"export": "a/n5/c", "files": {"config.json": {}, "modeling.py": {}}})
OURS = {
    ".gitattributes": "",
    "manifest.json": EXPORT,
    "manifest.json.record.json": "{}",
    "config.json": "",
    "modeling.py": "",
}


@pytest.mark.parametrize("files", [None, {}, {".gitattributes": ""}, OURS])
def test_a_new_repository_and_one_with_an_earlier_export_pass(
    files: dict[str, str] | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, files=files, cache=tmp_path)
    check_push("me/mine", replace=False)
    assert push_to_hub(folder, "me/mine", private=True, replace=False)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"README.md": "", "model.safetensors": ""}, "README.md"),
        (OURS | {"weights.bin": ""}, "weights.bin"),
        (OURS | {"manifest.json": '{"files": {"config.json": {}}}'}, "config.json"),
        (OURS | {"manifest.json": "no JSON"}, "config.json"),
        (OURS | {"manifest.json": '{"export": "a", "files": 3}'}, "config.json"),
    ],
)
def test_a_repository_with_other_files_is_refused(
    files: dict[str, str],
    named: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upload would delete them."""
    asked = hub(monkeypatch, files=files, cache=tmp_path)
    message = f"--push-to-hub: me/mine: holds {named}, which is no part of an export and which the"
    with pytest.raises(LpstepsError, match=message):
        check_push("me/mine", replace=False)
    with pytest.raises(LpstepsError, match=message):
        push_to_hub(folder, "me/mine", private=True, replace=False)
    assert asked == ["whoami"]
    check_push("me/mine", replace=True)
    assert push_to_hub(folder, "me/mine", private=True, replace=True)


def test_a_fault_of_this_machine_is_not_put_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, MemoryError())
    with pytest.raises(MemoryError):
        check_push("me/mine", replace=False)


def test_a_damaged_export_is_not_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    (folder / "config.json").write_text("changed")
    with pytest.raises(LpstepsError, match="the file was changed"):
        push_to_hub(folder, "me/mine", private=True, replace=False)
    assert asked == []


@pytest.mark.parametrize(
    "error",
    [
        LocalTokenNotFoundError("Token is required\nbut no token found"),
        ConnectionError("no route to host"),
        HfHubHTTPError("403 Forbidden", response=SimpleNamespace(headers={}, request=None)),
        ValueError("Repo id must be in the form"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub(monkeypatch, error)
    with pytest.raises(LpstepsError) as raised:
        push_to_hub(folder, "me/mine", private=True, replace=False)
    message = str(raised.value)
    assert message.startswith("--push-to-hub: me/mine: ") and "\n" not in message


def test_a_name_and_a_token_pass_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    check_push("me/mine", replace=False)
    assert asked == ["whoami"]


@pytest.mark.parametrize("name", ["mine", "me/", "a/b/c", "../mine", "me/mine\n", ""])
def test_a_wrong_name_is_refused_without_asking(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    with pytest.raises(LpstepsError, match="must be owner/name of a repository"):
        check_push(name, replace=False)
    assert asked == []


def test_without_a_token_nothing_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, LocalTokenNotFoundError("Token is required"))
    monkeypatch.setattr("lpsteps.export.run.build", lambda *_: pytest.fail("ran the workflow"))
    monkeypatch.chdir(ROOT)
    with pytest.raises(LpstepsError, match="--push-to-hub: me/mine: Token is required; log in"):
        cli.export_variant(
            model="smollm2-135m", variant="dense", to=tmp_path / "new", push_to_hub="me/mine"
        )
    assert not (tmp_path / "new").exists()


def test_without_the_network_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, which the environment keeps off the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LpstepsError, match=r"--push-to-hub: me/mine: .*offline"):
        push_to_hub(folder, "me/mine", private=True, replace=False)
