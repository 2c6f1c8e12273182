"""Conversion of a GGUF file that the test writes itself, against the model it was written from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lpsteps.artifacts import file_manifest, read_json, verify_file_manifest, write_json
from lpsteps.errors import LpstepsError
from lpsteps.models.convert import word_splitter
from lpsteps.steps import convert_model

HEADS, KEY_HEADS, LAYERS, HIDDEN = 4, 2, 3, 64
ALPHABET = sorted(ByteLevel.alphabet())
MERGES = ["Ġ Ġ", "1 2", "a b"]
TOKENS = ["<s>", *ALPHABET, *(merge.replace(" ", "") for merge in MERGES)]

Matrix = npt.NDArray[np.float32]

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _interleave(weight: Matrix, heads: int) -> Matrix:
    """Order the rows of a query or key matrix as llama.cpp's rotary embedding wants them."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _write_gguf(path: Path, pre_tokenizer: str | None = "smollm", rotary: str | None = None) -> Any:
    """Write a tiny quantised Llama and return the model that it should become."""
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        vocab_size=len(TOKENS),
        max_position_embeddings=77,
        rope_theta=5000.0,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    weights = model.state_dict()
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(77)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    if rotary is not None and rotary != "rope_freqs.weight":
        writer.add_string("llama.rope.scaling.type", rotary)
    if rotary == "rope_freqs.weight":
        writer.add_tensor(rotary, np.ones(HIDDEN // HEADS // 2, dtype=np.float32))
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    if pre_tokenizer is not None:
        writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def add(name: str, target: str, kind: GGMLQuantizationType, heads: int | None = None) -> None:
        weight = weights[target].numpy()
        stored = weight if heads is None else _interleave(weight, heads)
        data = quantize(stored, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        kept = dequantize(data, kind).reshape(stored.shape)
        if heads is not None:
            kept = kept.reshape(heads, -1, 2, HIDDEN).swapaxes(1, 2).reshape(weight.shape)
        weights[target].copy_(torch.from_numpy(kept.copy()))

    add("token_embd.weight", "model.embed_tokens.weight", GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    for layer in range(LAYERS):
        for name, target in NAMES.items():
            heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name)
            full = f"model.layers.{layer}.{target}.weight"
            add(f"blk.{layer}.{name}.weight", full, GGMLQuantizationType.Q4_1, heads)
        for name, norm in {"attn": "input", "ffn": "post_attention"}.items():
            weight = weights[f"model.layers.{layer}.{norm}_layernorm.weight"].numpy()
            writer.add_tensor(f"blk.{layer}.{name}_norm.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(weights)
    return model


def _expected(model: Any) -> dict[str, int]:
    return {
        "n_layers": LAYERS,
        "hidden_size": HIDDEN,
        "parameters": model.num_parameters(),
        "layer_parameters": sum(p.numel() for p in model.model.layers[0].parameters()),
    }


def _run(
    root: Path, expected: dict[str, int], output: str = "model", file: str = "tiny.gguf"
) -> int:
    archive = root / "archive"
    wheel = {"filename": "w.whl", "sha256": "0" * 64}
    names = [path.name for path in archive.glob("*.gguf")]
    write_json(archive / "manifest.json", {"wheel": wheel, **file_manifest(archive, names)})
    spec = {"format": "gguf", "file": file, "expected": expected}
    arguments = ["--archive", str(archive / "manifest.json"), "--spec", json.dumps(spec)]
    arguments += ["--manifest", str(root / output / "manifest.json")]
    return convert_model.main([*arguments, "--log", str(root / "log")])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("convert")
    (root / "archive").mkdir()
    model = _write_gguf(root / "archive" / "tiny.gguf")
    assert _run(root, _expected(model)) == 0
    return root, model


def test_a_pattern_for_two_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "archive").mkdir()
    for name in ("one", "two"):
        (tmp_path / "archive" / f"{name}.gguf").write_bytes(b"GGUF")
    sizes = dict.fromkeys(("n_layers", "hidden_size", "parameters", "layer_parameters"), 1)
    assert _run(tmp_path, sizes, file="*.gguf") == 1
    error = capsys.readouterr().err
    assert "--spec: file: *.gguf: 2 members of the archive match; name one" in error


def test_the_converted_model_computes_the_same(converted: tuple[Path, Any]) -> None:
    root, model = converted
    loaded = AutoModelForCausalLM.from_pretrained(root / "model").eval()
    ids = torch.randint(0, len(TOKENS), (2, 19), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("  12", ["ĠĠ", "1", "2"]),
        ("12ab 1", ["1", "2", "ab", "Ġ", "1"]),
        ("  ab", ["Ġ", "Ġ", "ab"]),
        ("½é\n", ["Â", "½", "Ã", "©", "Ċ"]),
        ("<s>a", ["<s>", "a"]),
    ],
)
def test_digits_stand_alone_as_in_the_original_tokenizer(
    converted: tuple[Path, Any], text: str, tokens: list[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted[0] / "model")
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.model_max_length == 77


def test_manifest_lists_every_file_and_nothing_tells_the_machine(
    converted: tuple[Path, Any],
) -> None:
    root, model = converted
    folder = root / "model"
    manifest = verify_file_manifest(folder / "manifest.json")
    listed = {*manifest["files"], "manifest.json", "manifest.json.record.json", ".outputs.json"}
    assert listed == {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= listed
    assert {key: manifest[key] for key in _expected(model)} == _expected(model)
    assert "quantization_config" not in read_json(folder / "config.json")
    for path in folder.glob("*.json"):
        if not path.name.endswith(".record.json"):
            assert str(root) not in path.read_text(), path


def test_two_conversions_give_the_same_bytes(converted: tuple[Path, Any]) -> None:
    root, model = converted
    assert _run(root, _expected(model), output="again") == 0
    first, second = (read_json(root / name / "manifest.json") for name in ("model", "again"))
    assert first == second


def test_a_model_of_another_size_stops_the_step(
    converted: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    root, model = converted
    assert _run(root, {**_expected(model), "n_layers": 4}, output="wrong") == 1
    message = capsys.readouterr().err
    assert "n_layers: 4: the model's files say 3; correct config/models.yaml" in message
    assert not (root / "wrong").exists()


def test_a_weight_that_is_not_finite_is_told_by_the_file_it_came_from(
    converted: tuple[Path, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, model = converted

    def convert(gguf: Path, folder: Path) -> None:
        for path in (root / "model").glob("*.json"):
            shutil.copy(path, folder)
        weights = load_file(root / "model/model.safetensors")
        weights["model.norm.weight"][0] = torch.nan
        save_file(weights, folder / "model.safetensors")

    monkeypatch.setattr(convert_model, "convert_gguf", convert)
    assert _run(root, _expected(model), output="infinite") == 1
    gguf = root / "archive" / "tiny.gguf"
    message = f"error: convert_model: {gguf}/model.safetensors: model.norm.weight: holds NaN"
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("name", ["deepseek-llm", None])
def test_an_unknown_word_rule_stops_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | None
) -> None:
    (tmp_path / "archive").mkdir()
    model = _write_gguf(tmp_path / "archive" / "tiny.gguf", name)
    assert _run(tmp_path, _expected(model)) == 1
    assert f"tokenizer.ggml.pre: {name or 'not given'}: cannot convert" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("rotary", "named"),
    [("linear", "llama.rope.scaling.type"), ("rope_freqs.weight", "rope_freqs.weight")],
)
def test_scaled_rotary_embeddings_stop_the_step(
    rotary: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Llama 3.1: transformers reads neither, and would compute something else."""
    (tmp_path / "archive").mkdir()
    model = _write_gguf(tmp_path / "archive" / "tiny.gguf", rotary=rotary)
    assert _run(tmp_path, _expected(model)) == 1
    assert f"{named}: a scaling of rotary embeddings would be lost" in capsys.readouterr().err


def test_a_file_that_is_not_gguf_stops_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "tiny.gguf").write_bytes(b"GGML" * 10)
    sizes = {"n_layers": 1, "hidden_size": 1, "parameters": 1, "layer_parameters": 1}
    assert _run(tmp_path, sizes) == 1
    assert "tiny.gguf: not a GGUF file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("gpt-2", ["x", "Ġ12345", "'s", "Ġ", "Ġ3", ".", "14", "ĊĊ"]),
        ("smollm", ["x", "Ġ", "1", "2", "3", "4", "5", "'s", "ĠĠ", "3", ".", "1", "4", "ĊĊ"]),
        ("llama-bpe", ["x", "Ġ", "123", "45", "'s", "Ġ", "Ġ", "3", ".", "14", "ĊĊ"]),
        ("qwen2", ["x", "Ġ", "1", "2", "3", "4", "5", "'s", "Ġ", "Ġ", "3", ".", "1", "4", "ĊĊ"]),
    ],
)
def test_word_rules_split_digits_and_spaces_in_their_own_ways(rule: str, words: list[str]) -> None:
    split = word_splitter(rule).pre_tokenize_str("x 12345's  3.14\n\n")
    assert [word for word, _ in split] == words


def test_word_rules_are_named_in_the_error() -> None:
    with pytest.raises(LpstepsError, match="did you mean 'qwen2'"):
        word_splitter("qwen3")
