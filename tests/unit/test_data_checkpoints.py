"""Model folders: what is taken over, how parameters are counted, what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lpsteps.data.checkpoints import (
    ExpectedModel,
    check_model,
    count_parameters,
    take_local_model,
)
from lpsteps.errors import LpstepsError


def _save_llama(folder: Path, tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4}
    config = LlamaConfig(num_hidden_layers=3, vocab_size=64, tie_word_embeddings=tied, **sizes)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_loaded_model(tmp_path: Path, tied: bool) -> None:
    model = _save_llama(tmp_path, tied)
    # Old checkpoints hold the output matrix although it is tied, rotary frequencies and masks.
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8),
        "gpt_neox.layers.0.attention.masked_bias": torch.ones(1),
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
    }
    if tied:
        extra["lm_head.weight"] = torch.ones(64, 48)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    save_file(extra, tmp_path / "model-2.safetensors")
    count = count_parameters(tmp_path)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    assert count.layer == sum(p.numel() for p in model.model.layers[0].parameters())


def test_a_difference_names_the_key_and_both_values(tmp_path: Path) -> None:
    model = _save_llama(tmp_path, tied=True)
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    right = {
        "n_layers": 3,
        "hidden_size": 48,
        "parameters": model.num_parameters(),
        "layer_parameters": layer,
    }
    check_model(tmp_path, ExpectedModel(**right))
    for key, value in right.items():
        with pytest.raises(LpstepsError, match=f"^{key}: {value + 1}: .* say {value}"):
            check_model(tmp_path, ExpectedModel(**{**right, key: value + 1}))
    check_model(tmp_path, ExpectedModel(**right, model_type="llama"))
    with pytest.raises(LpstepsError, match=r"^model_type: qwen2: the model's files say llama; "):
        check_model(tmp_path, ExpectedModel(**right, model_type="qwen2"))


def test_weights_without_a_first_layer_are_told_as_that(tmp_path: Path) -> None:
    """Zero is a count, too."""
    _save_llama(tmp_path, tied=True)
    (tmp_path / "model.safetensors").unlink()
    save_file({"model.embed_tokens.weight": torch.ones(64, 48)}, tmp_path / "model.safetensors")
    expected = ExpectedModel(n_layers=3, hidden_size=48, parameters=64 * 48, layer_parameters=5)
    with pytest.raises(
        LpstepsError, match=r"^layer_parameters: 5: the model's files have no tensor"
    ):
        check_model(tmp_path, expected)


def test_local_files_are_linked_and_strangers_left_behind(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    folder.mkdir()
    _save_llama(source, tied=True)
    for name in ("training.bin", "modeling_x.py", "manifest.json", "tokenizer.model"):
        (source / name).write_text("{}")
    take_local_model(source, folder, with_code=False)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.model"} <= names
    assert not names & {"training.bin", "modeling_x.py", "manifest.json"}
    assert (folder / "model.safetensors").samefile(source / "model.safetensors")
    (tmp_path / "with_code").mkdir()
    take_local_model(source, tmp_path / "with_code", with_code=True)
    assert (tmp_path / "with_code" / "modeling_x.py").is_file()


@pytest.mark.parametrize("shards", [False, True])
def test_weights_that_are_there_twice_count_once(shards: bool, tmp_path: Path) -> None:
    """As in Mistral's repositories, which hold them for their own program as well."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    folder.mkdir()
    model = _save_llama(source, tied=True)
    save_file({"tok_embeddings.weight": torch.ones(64, 48)}, source / "consolidated.safetensors")
    if shards:
        (source / "model.safetensors").unlink()
        model.save_pretrained(source, max_shard_size="20KB")
        assert len(list(source.glob("model-*.safetensors"))) > 1
    assert count_parameters(source).total == model.num_parameters()
    take_local_model(source, folder, with_code=False)
    assert not (folder / "consolidated.safetensors").exists()
    assert count_parameters(folder).total == model.num_parameters()
    if shards:
        lost = min(folder.glob("model-*.safetensors"))
        lost.unlink()
        with pytest.raises(LpstepsError, match=rf"{lost.name}: missing, but in model\.safetensors"):
            count_parameters(folder)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with pytest.raises(LpstepsError, match=r"no config\.json"):
        take_local_model(source, tmp_path, with_code=False)
    source.mkdir()
    (source / "config.json").write_text("{}")
    with pytest.raises(LpstepsError, match=r"no \*\.safetensors there; convert"):
        take_local_model(source, tmp_path, with_code=False)
    (source / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(LpstepsError, match=r"only pytorch_model\.bin, which could run code"):
        take_local_model(source, tmp_path, with_code=False)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(LpstepsError, match=r"model\.safetensors: not a valid safetensors file"):
        count_parameters(tmp_path)
