"""fetch_model: from a folder, and from a Hub that the test plays."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.hub_faults import WEIGHTS_ALONE, fetch
from tiny_tokenizer import train_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lpsteps.artifacts import read_json, verify_file_manifest
from lpsteps.data import hub
from lpsteps.errors import LpstepsError
from lpsteps.provenance import read_record
from lpsteps.steps import fetch_model

REVISION = "0123456789abcdef0123456789abcdef01234567"
DOWNLOAD = ".download-tiny@owner--tiny@0123456789ab"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, vocab_size=320, **sizes)).save_pretrained(
        folder
    )
    train_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("a model")
    return folder


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, int]:
    model = AutoModelForCausalLM.from_pretrained(source)
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    total = model.num_parameters()
    return {"n_layers": 2, "hidden_size": 48, "parameters": total, "layer_parameters": layer}


def fails(*_: Any) -> None:
    raise LpstepsError("its code changed")


def _run(root: Path, origin: dict[str, Any], expected: dict[str, int]) -> int:
    spec = {"source": origin, "expected": expected}
    manifest = root / "models" / "tiny" / "manifest.json"
    return fetch_model.main(["--manifest", str(manifest), "--spec", json.dumps(spec)])


def test_the_files_of_a_local_folder_keep_their_mode(
    tmp_path: Path, source: Path, expected: dict[str, int]
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(source, folder)
    (folder / "model.safetensors").chmod(0o600)
    assert _run(tmp_path, {"kind": "local", "path": str(folder)}, expected) == 0
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o600
    taken = tmp_path / "models" / "tiny" / "model.safetensors"
    assert taken.samefile(folder / "model.safetensors")


def test_a_local_folder_is_taken_over(
    tmp_path: Path, source: Path, expected: dict[str, int]
) -> None:
    assert _run(tmp_path, {"kind": "local", "path": str(source)}, expected) == 0
    folder = tmp_path / "models" / "tiny"
    manifest = verify_file_manifest(folder / "manifest.json")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest["files"])
    assert "README.md" not in manifest["files"]
    assert (manifest["n_layers"], manifest["trust_remote_code"]) == (2, False)
    assert str(source) not in (folder / "manifest.json").read_text()
    assert read_json(folder / "manifest.json.record.json")["spec"]["source"]["path"] == str(source)
    assert (source / "model.safetensors").is_file()


def test_an_export_of_this_project_is_taken_without_its_records(
    tmp_path: Path, source: Path, expected: dict[str, int]
) -> None:
    export = tmp_path / "export"
    shutil.copytree(source, export)
    for name in ("manifest.json", "manifest.json.record.json", ".outputs.json"):
        (export / name).write_text('{"rule": "export_model", "files": []}')
    # The second time, the folder has records of this step's own.
    for _ in range(2):
        assert _run(tmp_path, {"kind": "local", "path": str(export)}, expected) == 0
        manifest = tmp_path / "models" / "tiny" / "manifest.json"
        assert read_record(manifest)["rule"] == "fetch_model"
        listed = verify_file_manifest(manifest)["files"]
        assert not {"manifest.json.record.json", ".outputs.json"} & listed.keys()


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def announced(source: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the Hub says of the files of the commit: right, until a test changes it."""
    weights = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    config = git_digest((source / "config.json").read_bytes())
    digests = {"model.safetensors": weights, "config.json": config, "README.md": "0" * 40}
    monkeypatch.setattr(hub, "announced_digests", lambda repo, revision: digests)
    return digests


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_another_commit_is_refused(
    name: str,
    tmp_path: Path,
    source: Path,
    expected: dict[str, int],
    announced: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def snapshot_download(repo: str, **settings: Any) -> None:
        for file in ("config.json", "model.safetensors"):
            shutil.copy(source / file, settings["local_dir"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    announced[name] = announced[name][:-1] + ("0" if announced[name][-1] != "0" else "1")
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected) == 1
    output = capsys.readouterr().err
    assert f"owner/tiny at 0123456789ab: {name}: is not the file that this commit has" in output
    # The other file is right: it need not be fetched again.
    (download,) = (tmp_path / "models").iterdir()
    kept = {"config.json", "model.safetensors"} - {name}
    assert download.name == DOWNLOAD and {path.name for path in download.iterdir()} == kept


@pytest.mark.usefixtures("announced")
def test_a_download_that_failed_is_gone_on_with(
    tmp_path: Path, source: Path, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same commit alone, and never under the model's own name before it is whole."""
    found: list[set[str]] = []

    def snapshot_download(repo: str, **settings: Any) -> None:
        folder = settings["local_dir"]
        found.append({path.name for path in folder.iterdir()})
        if len(found) < 3:
            shutil.copy(source / "config.json", folder)
            raise OSError("peer closed connection")
        shutil.copy(source / "model.safetensors", folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for status, revision in ((1, REVISION), (1, "f" * 40), (0, REVISION)):
        origin = {"kind": "hub", "repo": "owner/tiny", "revision": revision}
        assert _run(tmp_path, origin, expected) == status
        assert (tmp_path / "models/tiny").exists() == (status == 0)
    assert found == [set(), set(), {"config.json"}]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    manifest = verify_file_manifest(tmp_path / "models/tiny/manifest.json")
    assert set(manifest["files"]) == {"config.json", "model.safetensors"}


@pytest.mark.usefixtures("announced")
def test_a_step_that_ends_while_it_hashes_keeps_the_download(
    tmp_path: Path, source: Path, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[set[str]] = []

    def snapshot_download(repo: str, **settings: Any) -> None:
        folder = settings["local_dir"]
        found.append({path.name for path in folder.rglob("*")})
        for name in ("config.json", "model.safetensors"):
            shutil.copy(source / name, folder)
        # What the client leaves when it is killed, and never reads again.
        (folder / ".cache").mkdir(exist_ok=True)
        (folder / ".cache/model.1234.incomplete").write_bytes(b"half")

    def interrupted(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    with monkeypatch.context() as patched:
        patched.setattr(fetch_model, "file_manifest", interrupted)
        assert _run(tmp_path, origin, expected) == 1
    assert not (tmp_path / "models/tiny").exists()
    assert _run(tmp_path, origin, expected) == 0
    assert found == [set(), {".cache", "config.json", "model.safetensors"}]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.usefixtures("announced")
def test_a_step_that_ends_with_its_last_check_keeps_the_download_where_it_can(
    tmp_path: Path,
    source: Path,
    expected: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    linked: bool,
) -> None:
    """Where the file system has links: elsewhere there may be no room for two copies."""
    found: list[set[str]] = []

    def snapshot_download(repo: str, **settings: Any) -> None:
        folder = settings["local_dir"]
        found.append({path.name for path in folder.iterdir()})
        for name in ("config.json", "model.safetensors"):
            shutil.copy(source / name, folder)

    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    if not linked:
        monkeypatch.setattr("os.link", link)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    with monkeypatch.context() as patched:
        patched.setattr(fetch_model.StepRun, "_check_code_unchanged", fails)
        assert _run(tmp_path, origin, expected) == 1
    assert not (tmp_path / "models/tiny").exists()
    assert _run(tmp_path, origin, expected) == 0
    assert found == [set(), {"config.json", "model.safetensors"} if linked else set()]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    verify_file_manifest(tmp_path / "models/tiny/manifest.json")


@pytest.mark.usefixtures("announced")
def test_a_local_copy_ends_the_download_that_failed(
    tmp_path: Path, source: Path, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repo: str, **settings: Any) -> None:
        shutil.copy(source / "config.json", settings["local_dir"])
        raise OSError("peer closed connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected) == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == [DOWNLOAD]
    assert _run(tmp_path, {"kind": "local", "path": str(source)}, expected) == 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


@pytest.mark.usefixtures("announced")
def test_a_model_of_another_size_is_not_fetched_again(
    tmp_path: Path, source: Path, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is what has to be corrected."""
    found: list[set[str]] = []

    def snapshot_download(repo: str, **settings: Any) -> None:
        folder = settings["local_dir"]
        found.append({path.name for path in folder.iterdir()})
        for name in ("config.json", "model.safetensors"):
            shutil.copy(source / name, folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected | {"hidden_size": 64}) == 1
    assert _run(tmp_path, origin, expected) == 0
    assert found == [set(), {"config.json", "model.safetensors"}]


@pytest.mark.usefixtures("announced")
def test_the_hub_is_asked_for_the_pinned_commit_and_no_pickles(
    tmp_path: Path, source: Path, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **settings: Any) -> None:
        asked.update(settings, repo=repo)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(source / name, settings["local_dir"])
        # Of a repository that `lpsteps export` has filled.
        for name in ("manifest.json", "manifest.json.record.json"):
            (settings["local_dir"] / name).write_text('{"rule": "export_model"}')
        (settings["local_dir"] / ".cache").mkdir()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected) == 0
    assert (asked["repo"], asked["revision"]) == ("owner/tiny", REVISION)
    assert "model*.safetensors" in asked["allow_patterns"]
    assert not {"*.bin", "*.py", "*"} & set(asked["allow_patterns"])
    written = tmp_path / "models" / "tiny" / "manifest.json"
    manifest = verify_file_manifest(written)
    assert set(manifest["files"]) == {"config.json", "model.safetensors"}
    assert read_record(written)["rule"] == "fetch_model"
    assert manifest["source"] == origin


def test_a_hub_that_refuses_is_told_in_one_line(
    tmp_path: Path,
    expected: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(repo: str, **settings: Any) -> None:
        raise OSError("403 Client Error.\n\nAccess to model owner/tiny is restricted")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected) == 1
    output = capsys.readouterr().err
    assert "owner/tiny at 0123456789ab: the Hub did not deliver it (403 Client Error.)" in output
    assert (
        "accept the licence on its page and give your token (`hf auth login`, or HF_TOKEN" in output
    )
    assert "below model_root" in output
    assert output.count("\n") == 1
    assert list((tmp_path / "models").iterdir()) == []


def test_a_full_disk_is_not_the_hubs_fault(
    tmp_path: Path,
    expected: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fill(repo: str, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fill)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected) == 1
    output = capsys.readouterr().err
    assert "no space left on the disk" in output
    assert "Hub" not in output


@pytest.mark.usefixtures("announced")
def test_pickled_weights_of_the_hub_are_refused(
    tmp_path: Path,
    source: Path,
    expected: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def snapshot_download(repo: str, **settings: Any) -> None:
        shutil.copy(source / "config.json", settings["local_dir"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    origin = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    assert _run(tmp_path, origin, expected) == 1
    assert "owner/tiny at 0123456789ab: no model*.safetensors there" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"kind": "hub", "repo": "owner/tiny", "revision": "main"}, "revision"),
        ({"kind": "hub", "repo": "owner/tiny", "revision": None}, "source.hub.revision"),
        ({"kind": "local", "path": "nowhere"}, "nowhere: no config.json there"),
        ({"kind": "ftp"}, "source"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: dict[str, str], message: str
) -> None:
    sizes = {"n_layers": 2, "hidden_size": 48, "parameters": 1, "layer_parameters": 1}
    assert _run(tmp_path, origin, sizes) == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


def test_a_model_of_another_size_stops_the_step(
    tmp_path: Path,
    source: Path,
    expected: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = expected | {"hidden_size": 64}
    assert _run(tmp_path, {"kind": "local", "path": str(source)}, wrong) == 1
    assert "hidden_size: 64: the model's files say 48" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


def test_the_hubs_client_goes_on_with_the_files_that_are_whole(
    tmp_path: Path, source: Path, expected: dict[str, int]
) -> None:
    spec, target = {"expected": expected}, tmp_path / "run"
    run, _ = fetch(source, spec, target, "cuts weights off")
    assert run.returncode == 1 and not (target / "models/tiny").exists()
    run, log = fetch(source, spec, target, WEIGHTS_ALONE)
    assert run.returncode == 0, run.stderr + log.read_text()
    assert [path.name for path in (target / "models").iterdir()] == ["tiny"]
    manifest = verify_file_manifest(target / "models/tiny/manifest.json")
    assert not any(name.startswith(".") for name in manifest["files"])
