"""Models that bring Python code: it runs where the entry says so, and nowhere else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import HIDDEN_SIZE
from tiny_tokenizer import VOCABULARY, train_tokenizer

from lpsteps.artifacts import file_manifest, read_json, write_json
from lpsteps.distillation.divergence import OutputHead
from lpsteps.errors import LpstepsError
from lpsteps.export.shortened_config import check_shortened_config
from lpsteps.models.families import check_remote_code
from lpsteps.models.folding import fold_patches
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.models.tokenizer import load_tokenizer
from lpsteps.models.width import prunable_layer
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan
from lpsteps.steps import fetch_model

TOKENS = torch.tensor([[5, 17, 99, 3, 42, 8]])
CPU = torch.device("cpu")

# As Baichuan2: a LLaMA whose queries, keys and values are one matrix, and whose head has rows of
# length one.
CODE = """
from pathlib import Path
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

Path(__file__).with_name("ran").touch()


class BaichuanConfig(LlamaConfig):
    model_type = "baichuan"


class Part(nn.Module):
    def __init__(self, packed, number):
        super().__init__()
        self.packed, self.number = [packed], number

    def forward(self, hidden):
        return self.packed[0](hidden).chunk(3, dim=-1)[self.number]


class Attention(modeling_llama.LlamaAttention):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.q_proj, self.k_proj, self.v_proj = (Part(self.W_pack, part) for part in range(3))


class DecoderLayer(modeling_llama.LlamaDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.self_attn = Attention(config, layer_idx)

    def forward(self, hidden_states, *args, **kwargs):
        return super().forward(hidden_states, *args, **kwargs)


class NormHead(nn.Module):
    def __init__(self, hidden_size, vocab_size):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, hidden):
        return nn.functional.linear(hidden, nn.functional.normalize(self.weight))


class BaichuanForCausalLM(LlamaForCausalLM):
    config_class = BaichuanConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.layers = nn.ModuleList(
            DecoderLayer(config, number) for number in range(config.num_hidden_layers)
        )
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        self.post_init()
"""

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
}


@pytest.fixture
def source(tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the Hub would deliver it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "source"
    settings = SIZES | {"num_key_value_heads": 4, "max_position_embeddings": 64}
    llama = tiny_model(
        "llama", layers=4, **{k: v for k, v in settings.items() if "hidden_l" not in k}
    )
    state = dict(llama.state_dict())
    for number in range(4):
        stem = f"model.layers.{number}.self_attn"
        parts = [state.pop(f"{stem}.{part}_proj.weight") for part in "qkv"]
        state[f"{stem}.W_pack.weight"] = torch.cat(parts)
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(
        {name: tensor.clone() for name, tensor in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / "modeling_baichuan.py").write_text(CODE)
    config = llama.config.to_dict() | {
        "model_type": "baichuan",
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
        },
    }
    write_json(folder / "config.json", config)
    train_tokenizer().save_pretrained(folder)
    return folder


def _fetched(source: Path, root: Path, trust: bool) -> int:
    total = sum(np.prod(shape) for shape in _shapes(source).values())
    layer = sum(np.prod(s) for n, s in _shapes(source).items() if ".layers.0." in n)
    expected = {"n_layers": 4, "hidden_size": HIDDEN_SIZE}
    expected |= {"parameters": int(total), "layer_parameters": int(layer)}
    spec = {"source": {"kind": "local", "path": str(source)}, "expected": expected}
    spec |= {"trust_remote_code": trust}
    manifest = root / "model" / "manifest.json"
    return fetch_model.main(["--manifest", str(manifest), "--spec", json.dumps(spec)])


def _shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def test_code_runs_for_an_entry_that_trusts_it(tmp_path: Path, source: Path) -> None:
    assert _fetched(source, tmp_path, trust=True) == 0
    folder = tmp_path / "model"
    assert read_json(folder / "manifest.json")["trust_remote_code"] is True
    model = load_model(folder, torch.float32, device=CPU)
    assert type(model).__name__ == "BaichuanForCausalLM"
    assert load_tokenizer(folder).bos_token == "<s>"
    decoder = decoder_of(model)
    with torch.inference_mode():
        hidden = decoder.backbone(input_ids=TOKENS).last_hidden_state
        assert torch.allclose(decoder.logits(hidden), model(TOKENS).logits, atol=1e-6)
        head = torch.nn.functional.normalize(decoder.lm_head.get_parameter("weight"))
        assert torch.allclose(model(TOKENS).logits, hidden @ head.T, atol=1e-5)
    outputs = branch_outputs(decoder.layers[0])
    assert outputs.mlp is decoder.layers[0].get_submodule("mlp.down_proj")
    assert not outputs.normalised

    scale = torch.linspace(0.5, 1.5, HIDDEN_SIZE)
    patch = PatchSet((GapPatch(1, 3, (Operation("scale", scale.numpy()),)),))
    with torch.inference_mode():
        seen = []
        hook = decoder.layers[0].register_forward_hook(lambda _, args, out: seen.append(out))
        model(TOKENS, use_cache=False)
        hook.remove()
        apply_plan(model, Plan.removing(4, (1, 2)), patch)
        check_shortened_config(model)
        last: list[torch.Tensor] = []
        decoder.layers[1].register_forward_pre_hook(lambda _, args: last.append(args[0]))
        model(TOKENS, use_cache=False)
    first = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert len(decoder.layers) == 2
    # The hook of the test comes behind the patch's.
    assert torch.allclose(last[0], first * scale, atol=1e-5)


def test_what_needs_other_matrices_says_so(tmp_path: Path, source: Path) -> None:
    assert _fetched(source, tmp_path, trust=True) == 0
    model = load_model(tmp_path / "model", torch.float32, device=CPU)
    with pytest.raises(LpstepsError, match=r"baichuan: its layers have no self_attn\.q_proj"):
        prunable_layer(model, 0)
    with pytest.raises(LpstepsError, match="the head is a NormHead"):
        OutputHead(decoder_of(model))
    turn = np.eye(HIDDEN_SIZE)[::-1].copy()
    rotation = PatchSet((GapPatch(1, 2, (Operation("rotation", turn),)),))
    with pytest.raises(LpstepsError, match="cannot be folded into baichuan"):
        fold_patches(model, Plan.removing(4, (1,)), rotation)


def test_code_of_an_entry_that_does_not_trust_it_stays_away(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _fetched(source, tmp_path, trust=False) == 1
    output = capsys.readouterr().err
    assert "config.json: auto_map: the model brings Python code" in output
    assert "trust_remote_code: true" in output
    assert output.count("\n") == 1
    assert not (tmp_path / "model").exists()
    # Nor does a folder load that got here in another way.
    write_json(source / "manifest.json", file_manifest(source, ["config.json"]))
    with pytest.raises(LpstepsError, match="auto_map: the model brings Python code"):
        load_model(source, torch.float32, device=CPU)
    assert not list((tmp_path / "hf").rglob("ran"))


def test_code_of_another_repository_is_refused(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_json(source / "config.json")
    config["auto_map"]["AutoModelForCausalLM"] = "owner/code--modeling.Model"
    write_json(source / "config.json", config)
    assert _fetched(source, tmp_path, trust=True) == 1
    assert "owner/code--modeling.Model: code of another repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    "code", [{"AutoTokenizer": ["owner/code--tokens.Tokenizer", None]}, ["owner/code--t.T", None]]
)
def test_code_of_another_repository_is_refused_to_the_tokenizer(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], code: Any
) -> None:
    settings = read_json(source / "tokenizer_config.json")
    write_json(source / "tokenizer_config.json", settings | {"auto_map": code})
    assert _fetched(source, tmp_path, trust=True) == 1
    output = capsys.readouterr().err
    assert "tokenizer_config.json: auto_map: owner/code--t" in output
    assert "code of another repository" in output


def test_code_of_another_repository_is_refused_to_a_trusted_family_of_transformers() -> None:
    config = {"model_type": "llama", "auto_map": {"AutoConfig": "owner/code--config.Config"}}
    check_remote_code(config, "config.json", trusted=False)
    with pytest.raises(LpstepsError, match=r"owner/code--config\.Config: code of another"):
        check_remote_code(config, "config.json", trusted=True)


@pytest.mark.parametrize("trust", [True, False])
def test_a_family_of_transformers_needs_no_code_of_its_own(
    tmp_path: Path, tiny_model_folder: Any, trust: bool
) -> None:
    folder = tiny_model_folder("llama", layers=2).parent
    (folder / "modeling_x.py").write_text("raise SystemExit('this code ran')")
    code = {"AutoConfig": "modeling_x.Config", "AutoModelForCausalLM": "modeling_x.Model"}
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"auto_map": code})
    manifest = file_manifest(folder, ["config.json"])
    write_json(folder / "manifest.json", manifest | {"trust_remote_code": trust})
    assert load_model(folder, torch.float32, device=CPU).config.model_type == "llama"
