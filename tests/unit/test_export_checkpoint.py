"""Exported checkpoints against the models in memory that they were made from."""

from __future__ import annotations

import contextlib
import copy
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import (
    CPU,
    N_LAYERS,
    TEMPLATES,
    TOKENS,
    difference,
    exported,
    operation,
    patches_of,
    plan_of,
)
from safetensors import safe_open
from tiny_families import FAMILIES
from transformers import AutoModelForCausalLM

from lpsteps.errors import LpstepsError
from lpsteps.export.checkpoint import Pruning, copy_companions, write_checkpoint
from lpsteps.export.custom_code import modeling_source
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.models.width import apply_width, width_pruning
from lpsteps.patches import GapPatch, PatchSet
from lpsteps.width_pruning import LayerWidth

CUSTOM_KINDS = ("scale", "matrix", "shift", "low_rank", "gated_mlp")


@pytest.fixture(autouse=True)
def own_modules_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Code that transformers copies before it runs it stays in the test's folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))


def in_memory(model: Any, pruning: Pruning) -> Any:
    """A pruned copy of a dense model, as it is scored."""
    pruned = copy.deepcopy(model)
    if pruning.width is not None:
        apply_width(pruned, pruning.width)
    elif pruning.plan is not None:
        apply_plan(pruned, pruning.plan, pruning.patches)
    return pruned


def test_a_patch_computes_the_same_in_every_family(
    family: str, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """In the middle of the model, at its start and in front of the final norm."""
    model = tiny_model(family)
    plan = plan_of(0, 2, 3, 5)
    pruning = Pruning(plan, patches_of(plan, "matrix", "shift"))
    expected = in_memory(model, pruning)(TOKENS).logits
    found, form = exported(model, pruning, tmp_path / "export")
    assert form == "layer_pruned"
    assert type(found.config).__mro__[1].__module__.startswith("transformers.models.")
    assert difference(found(TOKENS).logits, expected) <= 1e-5


@pytest.mark.parametrize("kind", CUSTOM_KINDS)
def test_each_kind_of_operation(kind: Any, tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model()
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, kind))
    expected = in_memory(model, pruning)(TOKENS).logits
    bare = in_memory(model, Pruning(plan))(TOKENS).logits
    found, form = exported(model, pruning, tmp_path / "export")
    assert form == "layer_pruned"
    assert difference(found(TOKENS).logits, expected) <= 1e-5
    assert difference(bare, expected) > 1e-2


@pytest.mark.parametrize("family", ["gemma2", "opt"])
@pytest.mark.parametrize("kind", ["scalar", "rotation"])
def test_what_a_family_cannot_fold_comes_with_code(
    family: str, kind: Any, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(family)
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, kind))
    expected = in_memory(model, pruning)(TOKENS).logits
    found, form = exported(model, pruning, tmp_path / "export")
    assert form == ("layer_pruned" if kind == "rotation" else "stock")
    assert difference(found(TOKENS).logits, expected) <= 1e-5


@pytest.mark.parametrize("kinds", [(), ("scalar",), ("rotation",), ("rotation", "scalar")])
@pytest.mark.parametrize("tied", [False, True])
def test_foldable_repairs_become_a_stock_model(
    kinds: Any, tied: bool, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, *kinds))
    expected = in_memory(model, pruning)(TOKENS).logits
    found, form = exported(model, pruning, tmp_path / "export")
    assert form == "stock"
    assert type(found).__name__ == "LlamaForCausalLM"
    assert found.config.num_hidden_layers == N_LAYERS - 2
    assert not list((tmp_path / "export").glob("*.py"))
    assert difference(found(TOKENS).logits, expected) <= (1e-5 if kinds else 0.0)
    # A rotated head is no longer the embedding.
    assert found.config.tie_word_embeddings == (tied and "rotation" not in kinds)


@pytest.mark.parametrize(
    ("family", "config", "settings"),
    [
        ("smollm3", "SmolLM3Config", {}),
        (
            "stablelm",
            "StableLmConfig",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        ),
    ],
)
def test_a_scalar_of_a_family_that_cannot_fold_it_gets_a_class(
    family: str,
    config: str,
    settings: dict[str, Any],
    tiny_model: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"intermediate_size": 80, "num_key_value_heads": 2}
    monkeypatch.setitem(FAMILIES, family, (config, sizes | settings))
    model = tiny_model(family)
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, "scalar"))
    expected = in_memory(model, pruning)(TOKENS).logits
    assert not pruning.folds(model.config.model_type)
    found, form = exported(model, pruning, tmp_path / "export")
    assert form == "layer_pruned"
    assert difference(found(TOKENS).logits, expected) <= 1e-5


def test_new_parameters_and_restored_layers_become_a_stock_model(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    replacements = {
        f"layers.3.{name}": values.numpy()
        for name, values in decoder_of(other).layers[3].named_parameters()
    }
    replacements["layers.0.mlp.down_proj.weight"] = (
        decoder_of(other).layers[0].mlp.down_proj.weight.numpy()
    )
    pruning = Pruning(plan_of(2, 3, 4), PatchSet(replacements=replacements, restored=(3,)))
    expected = in_memory(model, pruning)(TOKENS).logits
    found, form = exported(model, pruning, tmp_path / "export")
    assert (form, found.config.num_hidden_layers) == ("stock", N_LAYERS - 2)
    assert torch.equal(found(TOKENS).logits, expected)


def test_a_patch_behind_a_restored_layer(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    replacements = {
        f"layers.3.{name}": values.numpy()
        for name, values in decoder_of(other).layers[3].named_parameters()
    }
    gap = GapPatch(2, 5, (operation("matrix"),))
    pruning = Pruning(plan_of(2, 3, 4), PatchSet((gap,), {}, replacements, restored=(3,)))
    expected = in_memory(model, pruning)(TOKENS).logits
    found, _ = exported(model, pruning, tmp_path / "export")
    assert found.config.patches[0]["entrance"] == 3
    assert torch.equal(found(TOKENS).logits, expected)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_a_narrower_model_computes_the_same(
    family: str, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(family)
    widths = {2: LayerWidth((1,), tuple(range(60))), 4: LayerWidth((0, 1), (3, 5, 7))}
    pruning = Pruning(width=width_pruning(model, widths))
    reference = in_memory(model, pruning)
    found, form = exported(model, pruning, tmp_path / "export")
    assert form == "width_pruned"
    assert torch.equal(found(TOKENS).logits, reference(TOKENS).logits)
    settings = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(found.generate(TOKENS, **settings), reference.generate(TOKENS, **settings))


def test_the_dense_model_is_written_as_it_is(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model()
    expected = model(TOKENS).logits
    write_checkpoint(model, Pruning(), tmp_path, None)
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(found(TOKENS).logits, expected)


def test_code_that_did_not_run_is_not_named(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """Many repositories still bring code of families that transformers has had for long."""
    model = tiny_model()
    model.config.auto_map = {"AutoModelForCausalLM": "modeling_own.Model"}
    expected = model(TOKENS).logits
    write_checkpoint(model, Pruning(), tmp_path, None)
    found = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(found(TOKENS).logits, expected)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


@pytest.fixture
def patched(tiny_model: Callable[..., Any], tmp_path: Path) -> tuple[Any, Any, Path]:
    """A model in memory, its export with a patch, and the folder of that."""
    model = tiny_model(tie_word_embeddings=True)
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, "matrix"))
    reference = in_memory(model, pruning)
    found, _ = exported(model, pruning, tmp_path / "export")
    return reference, found, tmp_path / "export"


def test_the_cache_does_not_change_what_is_generated(patched: tuple[Any, Any, Path]) -> None:
    reference, found, _ = patched
    settings = {"max_new_tokens": 12, "do_sample": False}
    expected = reference.generate(TOKENS, **settings)
    assert torch.equal(found.generate(TOKENS, **settings), expected)
    assert torch.equal(found.generate(TOKENS, use_cache=False, **settings), expected)


def test_saved_again_it_is_the_same(patched: tuple[Any, Any, Path], tmp_path: Path) -> None:
    _, found, folder = patched
    found.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/modeling_layer_pruned.py").read_bytes() == (
        folder / "modeling_layer_pruned.py"
    ).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(again(TOKENS).logits, found(TOKENS).logits)


def test_the_patch_keeps_float32_in_a_bfloat16_model(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(tiny_model_folder().parent, torch.bfloat16, device=CPU)
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, "matrix"))
    reference = in_memory(model, pruning)
    found, _ = exported(model, pruning, tmp_path / "export")
    assert {p.dtype for n, p in found.named_parameters() if "input_patch" in n} == {torch.float32}
    assert {p.dtype for n, p in found.named_parameters() if "input_patch" not in n} == {
        torch.bfloat16
    }
    assert torch.equal(found(TOKENS).logits, reference(TOKENS).logits)
    prompts = torch.tensor([[prompt, 3 * prompt % 128, 7] for prompt in range(2, 22)])
    settings = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(found.generate(prompts, **settings), reference.generate(prompts, **settings))
    # Even if a program casts all of it.
    assert found.bfloat16()(TOKENS).logits.isfinite().all()


def test_a_gradient_flows_through_the_patch(patched: tuple[Any, Any, Path]) -> None:
    _, found, _ = patched
    found.requires_grad_(True)
    found.activation_checkpointing_enable()
    found.train()
    found(TOKENS, labels=TOKENS).loss.backward()
    layers = decoder_of(found).layers
    assert layers[0].mlp.down_proj.weight.grad.abs().sum() > 0
    assert layers[2].input_patch.weight_0.grad.abs().sum() > 0


def test_a_lora_adapter_goes_on_top(patched: tuple[Any, Any, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    _, found, folder = patched
    before = found(TOKENS).logits
    settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(found, settings)
    adapted(input_ids=TOKENS, labels=TOKENS).loss.backward()
    trained = [p for _, p in adapted.named_parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05)
    expected = adapted(input_ids=TOKENS).logits.detach()
    assert difference(expected, before) > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert torch.equal(loaded(input_ids=TOKENS).logits, expected)


def test_parts_of_it_can_lie_on_the_disk(patched: tuple[Any, Any, Path], tmp_path: Path) -> None:
    _, found, folder = patched
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {"lm_head": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu"}
    places |= {"model.layers.2": "disk", "model.layers.3": "disk"}
    spread = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, device_map=places, offload_folder=tmp_path / "offload"
    )
    assert spread.model.layers[2].input_patch.weight_0.device.type == "meta"
    assert difference(spread(TOKENS).logits, found(TOKENS).logits) <= 1e-5


def test_a_device_map_keeps_a_patch_with_its_layer(patched: tuple[Any, Any, Path]) -> None:
    from accelerate import infer_auto_device_map

    _, found, _ = patched
    layer = sum(p.numel() * 4 for p in decoder_of(found).layers[2].parameters())
    places = infer_auto_device_map(
        found,
        max_memory={0: 3 * layer, "cpu": 10**9},
        no_split_module_classes=list(found._no_split_modules),
    )
    assert {0, "cpu"} <= set(places.values())
    assert not any("input_patch" in name for name in places)


def test_without_trust_nothing_is_loaded(patched: tuple[Any, Any, Path]) -> None:
    """The stock class would load the weights and leave the patch out."""
    _, _, folder = patched
    with pytest.raises((ValueError, OSError)):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)


def test_the_weights_are_safetensors_with_the_patch_in_them(
    patched: tuple[Any, Any, Path],
) -> None:
    reference, _, folder = patched
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_layer_pruned.py",
    }
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        weight = tensors.get_tensor("model.layers.2.input_patch.weight_0")
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118
    assert torch.equal(weight, decoder_of(reference).layers[2].input_patch.weights[0])


def test_the_code_names_the_license_and_needs_transformers_alone(
    patched: tuple[Any, Any, Path],
) -> None:
    source = (patched[2] / "modeling_layer_pruned.py").read_text()
    assert source.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert "lpsteps" not in source
    assert source == TEMPLATES["layer"].read_text()


@pytest.mark.parametrize("kind", ["layer", "width"])
def test_the_lines_that_depend_on_the_family_are_all_replaced(
    kind: str, tiny_model: Callable[..., Any]
) -> None:
    source = modeling_source(TEMPLATES[kind].read_text(), tiny_model("gpt_neox"))
    assert "Llama" not in source and '"model.' not in source
    assert "from transformers import GPTNeoXForCausalLM as BaseForCausalLM" in source
    assert 'LAYERS = "gpt_neox.layers"' in source


@pytest.mark.parametrize("kind", ["layer", "width"])
@pytest.mark.parametrize(("version", "loads"), [("4.57.1", False), ("5.17.0", True)])
def test_a_transformers_that_computes_another_model_is_refused(
    kind: str, version: str, loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.__version__", version)
    refused = pytest.raises(ImportError, match=r"transformers 4\.57\.1 .* install 5 or later")
    with contextlib.nullcontext() if loads else refused:
        runpy.run_path(str(TEMPLATES[kind]))


def test_what_describes_the_weights_of_the_dense_model_stays_behind(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    left = ["model.safetensors", "pytorch_model.bin.index.json", "params.json", "config.json"]
    left += ["consolidated.safetensors", "consolidated.00.pth", "model.safetensors.index.json"]
    for path in (source, folder):
        path.mkdir()
    for name in (*left, "tokenizer.json", "vocab.txt"):
        (source / name).write_text(name)
    copy_companions(source, [path.name for path in source.iterdir()], folder)
    assert {path.name for path in folder.iterdir()} == {"tokenizer.json", "vocab.txt"}


def test_an_unknown_operation_is_refused_by_the_exported_code(
    patched: tuple[Any, Any, Path],
) -> None:
    _, _, folder = patched
    config = json.loads((folder / "config.json").read_text())
    config["patches"][0]["operations"][0]["kind"] = "unknown"
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(ValueError, match="patches: unknown: not an operation"):
        model(TOKENS)


def test_code_of_the_model_itself_is_no_base_class(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    own = type("OwnForCausalLM", (type(model),), {"__module__": "transformers_modules.own"})
    model.__class__ = own
    plan = plan_of(2, 3)
    with pytest.raises(LpstepsError, match="runs code of its own, so a repair that needs"):
        write_checkpoint(
            model,
            Pruning(plan, patches_of(plan, "matrix")),
            Path("unused"),
            TEMPLATES["layer"].read_text(),
        )
    assert len(decoder_of(model).layers) == N_LAYERS
