"""Loading models, finding their layers, setting up torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_info

from lpsteps.artifacts import read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.compute import configure_torch, read_compute, torch_dtype
from lpsteps.models.families import LAYOUTS
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.tokenizer import load_tokenizer

TOKENS = torch.tensor([[5, 17, 99, 3, 42], [7, 7, 1, 120, 64]])


def test_saved_model_comes_back_frozen_and_equal(
    tiny_model: Any, tiny_model_folder: Any, family: str
) -> None:
    folder = tiny_model_folder(family).parent
    loaded = load_model(folder, torch.float32, device=torch.device("cpu"))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with torch.inference_mode():
        expected = tiny_model(family)(TOKENS).logits
        # Gemma 2 was built with its default attention; kernels differ in the last bits.
        assert torch.allclose(loaded(TOKENS).logits, expected, atol=1e-5)


def test_attention_is_sdpa_unless_scores_are_capped(tiny_model_folder: Any, family: str) -> None:
    loaded = load_model(tiny_model_folder(family).parent, torch.float32)
    expected = "eager" if family == "gemma2" else "sdpa"
    assert loaded.config._attn_implementation == expected


def test_dtype_is_the_one_asked_for(tiny_model_folder: Any) -> None:
    folder = tiny_model_folder("llama").parent
    assert load_model(folder, torch.bfloat16).dtype == torch.bfloat16
    assert load_model(folder, torch.float32).dtype == torch.float32


def test_layers_of_every_family(tiny_model: Any, family: str) -> None:
    model = tiny_model(family, layers=4)
    decoder = decoder_of(model)
    assert len(decoder.layers) == 4
    with torch.inference_mode():
        expected = model(TOKENS).logits
        hidden = decoder.backbone(input_ids=TOKENS, use_cache=False).last_hidden_state
        assert torch.equal(decoder.logits(hidden), expected)


def test_boundaries_come_in_order_and_hooks_go(tiny_model: Any, family: str) -> None:
    model = tiny_model(family, layers=4)
    seen: list[tuple[int, torch.Tensor]] = []

    def keep(boundary: int, hidden: torch.Tensor) -> None:
        seen.append((boundary, hidden.clone()))

    with torch.inference_mode():
        with watching_boundaries(model, keep):
            model(TOKENS)
        model(TOKENS)
    assert [boundary for boundary, _ in seen] == [0, 1, 2, 3, 4]
    assert {tuple(hidden.shape) for _, hidden in seen} == {(2, 5, 48)}
    decoder = decoder_of(model)
    with torch.inference_mode():
        normalised = decoder.norm(seen[4][1])
        hidden = decoder.backbone(input_ids=TOKENS, use_cache=False).last_hidden_state
        assert torch.equal(normalised, hidden)


def test_every_supported_family_is_tested(tiny_model: Any, families: list[str]) -> None:
    tested = {tiny_model(family, layers=2).config.model_type for family in families}
    assert tested == {family for family, layout in LAYOUTS.items() if layout.native}


def test_a_family_with_parts_in_unknown_places_is_named(tiny_llama: Any) -> None:
    tiny_llama.config.model_type = "lama"
    assert decoder_of(tiny_llama).norm is tiny_llama.model.norm
    tiny_llama.model.final = tiny_llama.model.norm
    del tiny_llama.model.norm
    message = (
        r"model_type: lama: no decoder layers with a final norm at a usual place \(model\.layers"
    )
    with pytest.raises(LpstepsError, match=message):
        decoder_of(tiny_llama)


def test_model_without_final_norm_is_refused(tiny_model: Any) -> None:
    with pytest.raises(LpstepsError, match="no final norm"):
        decoder_of(tiny_model("opt", do_layer_norm_before=False))


def test_folder_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LpstepsError, match=r"no config\.json"):
        load_model(tmp_path, torch.float32)
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(LpstepsError, match="cannot be loaded"):
        load_model(tmp_path, torch.float32)
    with pytest.raises(LpstepsError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_tensors_that_the_model_has_no_place_for_are_refused(tiny_model_folder: Any) -> None:
    folder = tiny_model_folder("llama", attention_bias=True).parent
    config = read_json(folder / "config.json")
    assert config.pop("attention_bias")
    write_json(folder / "config.json", config)
    message = (
        r"llama: model\.layers\.0\.self_attn\.k_proj\.bias, .*\.0\.self_attn\.o_proj\.bias, "
        r".*\.0\.self_attn\.q_proj\.bias and 21 more: in the weights, .*attention_bias"
    )
    with pytest.raises(LpstepsError, match=message) as error:
        load_model(folder, torch.float32)
    assert "\n" not in str(error.value)
    biases = {f"model.layers.{layer}.self_attn.{x}_proj.bias" for layer in range(6) for x in "qkvo"}
    _edit_weights(folder, {}, without=biases - {"model.layers.4.self_attn.v_proj.bias"})
    with pytest.raises(LpstepsError, match=r": model\.layers\.4\.self_attn\.v_proj\.bias: in the"):
        load_model(folder, torch.float32)


def test_what_old_checkpoints_hold_besides_is_accepted(
    tiny_model: Any, tiny_model_folder: Any
) -> None:
    folder = tiny_model_folder("llama", tie_word_embeddings=True).parent
    model = tiny_model("llama", tie_word_embeddings=True)
    besides = {
        "lm_head.weight": model.lm_head.weight.clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
        "model.layers.0.attention.bias": torch.ones(1, 1, 8, 8),
        "model.layers.0.attention.masked_bias": torch.ones(1),
    }
    _edit_weights(folder, besides)
    loaded = load_model(folder, torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


def _edit_weights(
    folder: Path, add: dict[str, torch.Tensor], without: Collection[str] = ()
) -> None:
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if name not in without}
    assert not kept.keys() & add.keys()
    save_file(kept | add, path, {"format": "pt"})


def test_dtype_names() -> None:
    assert torch_dtype("float32") is torch.float32
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(LpstepsError, match="dtype: float16: "):
        torch_dtype("float16")


def test_compute_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compute.json"
    write_json(path, {"schema": 1, "dtype": "bfloat16", "device": "cpu"})
    compute = read_compute(path)
    assert (compute.dtype, compute.device.type) == (torch.bfloat16, "cpu")
    write_json(path, {"schema": 1, "dtype": "float32", "device": "cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LpstepsError, match="no GPU is visible"):
        read_compute(path)
    write_json(path, {"schema": 1, "dtype": "float32", "device": "tpu"})
    with pytest.raises(
        LpstepsError, match="device: 'tpu': must be 'cpu' or 'cuda'; delete it to rebuild it"
    ):
        read_compute(path)
    write_json(path, {"schema": 1, "device": "cpu"})
    with pytest.raises(LpstepsError, match="dtype: required"):
        read_compute(path)
    write_json(path, {"schema": 1, "dtype": "float32", "device": "cpu", "threads": 2})
    with pytest.raises(LpstepsError, match="threads: unknown key"):
        read_compute(path)


def test_threads_follow_the_variable_and_else_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPSTEPS_THREADS", "3")
    assert configure_torch() == 3 == torch.get_num_threads()
    # Whatever Snakemake set for NumPy, which goes by --cores.
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert pools and {pool["num_threads"] for pool in pools} == {3}
    monkeypatch.delenv("LPSTEPS_THREADS")
    assert configure_torch() == len(os.sched_getaffinity(0)) == torch.get_num_threads()
    assert torch.are_deterministic_algorithms_enabled()
    for mistake in ("0", "two", "-1"):
        monkeypatch.setenv("LPSTEPS_THREADS", mistake)
        with pytest.raises(LpstepsError, match=f"LPSTEPS_THREADS: {mistake}"):
            configure_torch()
    monkeypatch.setenv("LPSTEPS_THREADS", "1")
    configure_torch()


@pytest.mark.skipif(
    sys.platform != "linux" or os.sysconf("SC_PAGESIZE") != 4096,
    reason="counts page faults as Linux does with pages of 4 KiB",
)
def test_memory_of_freed_tensors_is_used_again() -> None:
    # In a process of its own, because the C library's settings stay.
    program = """
import resource, sys, torch
from lpsteps.models.compute import configure_torch
configure_torch()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rows = torch.ones(2**20)
def work():
    results = [rows.abs() for _ in range(60)]
for _ in range(3):
    work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    # The results of each time have 60 thousand pages.
    assert int(run.stdout) < 60_000
