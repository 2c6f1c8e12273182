"""`lpsteps describe-model`: the entry that it prints is one that the config takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tiny_tokenizer import train_tokenizer
from typer.testing import CliRunner

from lpsteps.artifacts import read_json, write_json
from lpsteps.cli import app
from lpsteps.config import Model
from lpsteps.data.describe import describe_model
from lpsteps.errors import LpstepsError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_model_folder: Any) -> Path:
    path: Path = tiny_model_folder("qwen2", layers=3, tie_word_embeddings=True).parent
    train_tokenizer().save_pretrained(path)
    return path


def _sizes(model: Any) -> dict[str, int]:
    return {
        "n_layers": 3,
        "hidden_size": 48,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layer_parameters": sum(p.numel() for p in model.model.layers[1].parameters()),
        "vocabulary": 128,
    }


def test_a_folder(folder: Path, tiny_model: Any) -> None:
    printed = CliRunner().invoke(app, ["describe-model", str(folder)])
    assert printed.exit_code == 0
    (name, entry), *_ = yaml.safe_load(printed.stdout).items()
    assert name == "qwen2"
    sizes = _sizes(tiny_model("qwen2", layers=3, tie_word_embeddings=True))
    assert entry == {
        "title": "qwen2",
        **sizes,
        "model_type": "qwen2",
        "source": {"path": str(folder)},
        "add_bos": True,
    }
    Model.model_validate(entry)


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_a_family_that_needs_bos_in_every_window(family: str, tiny_model_folder: Any) -> None:
    folder = tiny_model_folder(family, layers=3).parent
    train_tokenizer().save_pretrained(folder)
    entry = yaml.safe_load(describe_model(str(folder)))[family]
    assert entry["model_type"].startswith("gemma")
    assert entry["bos_in_windows"] is True
    assert Model.model_validate(entry).bos_in_windows


def test_a_tokenizer_that_adds_no_bos(folder: Path) -> None:
    tokenizer = read_json(folder / "tokenizer.json")
    write_json(folder / "tokenizer.json", tokenizer | {"post_processor": None})
    assert yaml.safe_load(describe_model(str(folder)))["qwen2"]["add_bos"] is False


def test_a_repository_is_read_without_its_weights(
    folder: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    def snapshot_download(repo: str, **settings: Any) -> None:
        assert (repo, settings["revision"]) == ("Owner/My-Model", REVISION)
        assert "*.safetensors" not in settings["allow_patterns"]
        for path in folder.glob("*.json"):
            shutil.copy(path, settings["local_dir"])

    model = tiny_model("qwen2", layers=3, tie_word_embeddings=True)
    tensors = {
        name: SimpleNamespace(shape=list(tensor.shape))
        for name, tensor in model.state_dict().items()
    }
    metadata = SimpleNamespace(
        files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)}
    )
    api = SimpleNamespace(model_info=lambda repo: SimpleNamespace(sha=REVISION))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", lambda repo, revision: metadata)
    entry = yaml.safe_load(describe_model("Owner/My-Model"))["my-model"]
    assert entry["source"] == {"repo": "Owner/My-Model", "revision": REVISION}
    assert {key: entry[key] for key in _sizes(model)} == _sizes(model)
    Model.model_validate(entry)


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from httpx2 import ConnectError

    def refuse(repo: str) -> None:
        raise ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(model_info=refuse))
    with pytest.raises(LpstepsError, match=r"owner/m at its last commit: .*check the network"):
        describe_model("owner/m")


def test_a_gated_repository_says_how_to_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo: str) -> None:
        raise OSError("401 Client Error.\nCannot access gated repo")

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(model_info=refuse))
    with pytest.raises(LpstepsError, match=r"owner/m at its last commit: .*401.*HF_TOKEN") as error:
        describe_model("owner/m")
    assert "\n" not in str(error.value)


def test_what_cannot_be_pruned_is_not_described(folder: Path) -> None:
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"quantization_config": {"bits": 4}})
    with pytest.raises(LpstepsError, match="its weights are quantised"):
        describe_model(str(folder))
