"""An export loads the tokenizer that the dense model loads, or is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizer import train_tokenizer
from transformers import AutoTokenizer

from lpsteps.artifacts import read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.export.settings import Form
from lpsteps.export.tokenizer import keep_tokenizer

CODE = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}


def folder_of(folder: Path, model_type: str, tokenizer_class: str, **config: Any) -> Path:
    """A model's folder as far as its tokenizer goes."""
    train_tokenizer().save_pretrained(folder)
    settings = read_json(folder / "tokenizer_config.json") | {"tokenizer_class": tokenizer_class}
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "config.json", {"model_type": model_type, **config})
    return folder


def loaded(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    ("family", "named"),
    [("qwen2", "LlamaTokenizerFast"), ("mistral", "Qwen2Tokenizer"), ("llama", "LlamaTokenizer")],
)
def test_a_class_of_its_own_keeps_the_dense_models_tokenizer(
    family: str, named: str, tmp_path: Path
) -> None:
    """The first is what DeepSeek's distilled Qwen says: its family knows better, ours does not."""
    dense = folder_of(tmp_path / "dense", family, named)
    own = folder_of(tmp_path / "own", "layer_pruned", named, **CODE)
    if family != "llama":
        assert type(loaded(own)) is not type(loaded(dense))
    keep_tokenizer(dense, own, "layer_pruned", trusted=True)
    assert type(loaded(own)) is type(loaded(dense))


@pytest.mark.parametrize("form", ["stock", "layer_pruned"])
def test_another_tokenizer_is_not_exported(form: Form, tmp_path: Path) -> None:
    dense = folder_of(tmp_path / "dense", "llama", "PreTrainedTokenizerFast")
    other = folder_of(tmp_path / "other", "llama", "PreTrainedTokenizerFast")
    content = read_json(other / "tokenizer.json")
    content["pre_tokenizer"]["add_prefix_space"] = True
    write_json(other / "tokenizer.json", content)
    with pytest.raises(LpstepsError, match=r"not exported: its tokenizer .* of 'The river'"):
        keep_tokenizer(dense, other, form, trusted=True)


def test_the_files_of_a_stock_model_stay_as_they_are(tmp_path: Path) -> None:
    dense = folder_of(tmp_path / "dense", "qwen2", "LlamaTokenizerFast")
    stock = folder_of(tmp_path / "stock", "qwen2", "LlamaTokenizerFast")
    before = {path.name: path.read_bytes() for path in stock.iterdir()}
    keep_tokenizer(dense, stock, "stock", trusted=False)
    assert {path.name: path.read_bytes() for path in stock.iterdir()} == before
    (tmp_path / "bare").mkdir()
    keep_tokenizer(tmp_path / "bare", tmp_path / "bare", "stock", trusted=False)


@pytest.mark.parametrize("form", ["stock", "layer_pruned"])
def test_code_of_a_tokenizer_that_nobody_trusts_is_not_asked_for(
    form: Form, tmp_path: Path
) -> None:
    """The dense model's tokenizer is loaded without it, though its settings name it."""
    dense = folder_of(tmp_path / "dense", "llama", "PreTrainedTokenizerFast")
    code = {"auto_map": {"AutoTokenizer": ["tokenization_own.Tokenizer", None]}}
    write_json(dense / "tokenizer_config.json", read_json(dense / "tokenizer_config.json") | code)
    export = tmp_path / "export"
    shutil.copytree(dense, export)
    if form != "stock":
        write_json(export / "config.json", {"model_type": form, **CODE})
    keep_tokenizer(dense, export, form, trusted=form != "stock")
    assert type(loaded(export)) is type(AutoTokenizer.from_pretrained(dense))
    assert "auto_map" not in read_json(export / "tokenizer_config.json")
