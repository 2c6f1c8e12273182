"""Uploading an export, to a Hub that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

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


def hub(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[Any]:
    """Put a Hub in place that keeps what it is asked, or refuses."""
    asked: list[Any] = []

    class Hub:
        def whoami(self) -> dict[str, str]:
            asked.append("whoami")
            if error is not None:
                raise error
            return {"name": "me"}

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
    assert push_to_hub(folder, "me/mine", private=True) == "https://hub/commit/1"
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
    push_to_hub(folder, "me/mine", private=True)
    assert asked[-1]["delete_patterns"] == "*"


def test_a_damaged_export_is_not_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    (folder / "config.json").write_text("changed")
    with pytest.raises(LpstepsError, match="the file was changed"):
        push_to_hub(folder, "me/mine", private=True)
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
        push_to_hub(folder, "me/mine", private=True)
    message = str(raised.value)
    assert message.startswith("--push-to-hub: me/mine: ") and "\n" not in message


def test_a_name_and_a_token_pass_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    check_push("me/mine")
    assert asked == ["whoami"]


@pytest.mark.parametrize("name", ["mine", "me/", "a/b/c", "../mine", "me/mine\n", ""])
def test_a_wrong_name_is_refused_without_asking(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    with pytest.raises(LpstepsError, match="must be owner/name of a repository"):
        check_push(name)
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
        push_to_hub(folder, "me/mine", private=True)
