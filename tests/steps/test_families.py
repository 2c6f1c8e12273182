"""Every model family goes through the steps: statistics, ranking, plan, patch, perplexity, text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from tiny_families import FAMILIES, FURTHER, HIDDEN_SIZE, VOCABULARY
from torch import nn

from lpsteps.artifacts import read_json, write_json, write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import load_benchmark
from lpsteps.hadamard import basis_matrix
from lpsteps.models.families import check_family
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import read_patches
from lpsteps.plan import read_plan
from lpsteps.selection.ranking import read_ranking
from lpsteps.steps import (
    build_patch,
    calibrate,
    choose_dtype,
    choose_layers,
    evaluate_perplexity,
    rank_layers,
)

LAYERS, N = 5, 2
WINDOWS = np.random.default_rng(0).integers(2, VOCABULARY, (3, 16))


def _run(step: Any, tmp_path: Path, spec: dict[str, Any], *options: str) -> None:
    log = tmp_path / "log.txt"
    arguments = [*options, f"--log={log}", f"--spec={json.dumps(spec)}"]
    assert step.main(arguments) == 0, log.read_text()


def _pruned_by_hand(
    model: Any, layers: tuple[int, ...], entrance: int, patch: torch.Tensor
) -> None:
    """Make layers hand on what they read, and rotate, scale and rotate back what is behind them."""
    decoder = decoder_of(model)

    def hand_on(module: nn.Module, positional: Any, named: Any, output: Any) -> Any:
        hidden = positional[0] if positional else named["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def bridge(module: nn.Module, positional: Any, named: Any) -> Any:
        if positional:
            return (positional[0] @ patch, *positional[1:]), named
        return positional, {**named, "hidden_states": named["hidden_states"] @ patch}

    for layer in layers:
        decoder.layers[layer].register_forward_hook(hand_on, with_kwargs=True)
    entrances = [*decoder.layers, decoder.norm]
    entrances[entrance].register_forward_pre_hook(bridge, with_kwargs=True)


@pytest.mark.parametrize("family", sorted([*FAMILIES, *FURTHER]))
def test_a_family_goes_through_the_steps(
    tmp_path: Path, tiny_model_folder: Any, family: str
) -> None:
    manifest = tiny_model_folder(family, layers=LAYERS)
    model, compute = f"--model={manifest}", f"--compute={tmp_path / 'compute.json'}"
    windows, stats = tmp_path / "windows.parquet", f"--stats={tmp_path / 'stats.parquet'}"
    tokens = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(windows, pa.table({"window": range(len(WINDOWS)), "token_ids": tokens}))

    _run(choose_dtype, tmp_path, {"dtype": "auto"}, model, f"--compute={tmp_path / 'auto.json'}")
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    _run(calibrate, tmp_path, {"windows": 3}, model, f"--windows={windows}", compute, stats)
    ranking = f"--ranking={tmp_path / 'ranking.parquet'}"
    ranks = {"selection": "s", "n_layers": LAYERS, "counts": [N]}
    _run(rank_layers, tmp_path, {**ranks, "metric": "contiguous_cosine"}, stats, ranking)
    plan = f"--plan={tmp_path / 'plan.json'}"
    chosen = {"n": N, "model": "m", "selection": "s", "n_layers": LAYERS}
    _run(choose_layers, tmp_path, chosen, ranking, plan)
    patch = {"recovery": "r", "method": "linearpatch", "params": {}}
    paths = f"--patch={tmp_path / 'p.safetensors'}", f"--manifest={tmp_path / 'p.manifest.json'}"
    _run(build_patch, tmp_path, patch, plan, model, stats, *paths)
    spec = {
        "model": "m",
        "variant": "v",
        "batch_tokens": 32,
        "benchmarks": {"wikitext2": load_benchmark("wikitext2").scoring()},
        "windows": {"wikitext2": None},
    }
    score = f"--score=wikitext2={tmp_path / 'score.json'}"
    scored = f"--windows=wikitext2={windows}"
    patched = f"--patch-manifest={tmp_path / 'p.manifest.json'}"
    _run(evaluate_perplexity, tmp_path, spec, model, compute, plan, patched, scored, score)

    by_hand = load_model(manifest.parent, torch.float32, device=torch.device("cpu"))
    removed = read_plan(tmp_path / "plan.json")
    patches = read_patches(tmp_path / "p.manifest.json")
    (gap,) = patches.gaps
    (operation,) = gap.operations
    matrix = torch.tensor(np.asarray(operation.weight), dtype=torch.float32)
    if matrix.dim() == 1:
        basis = torch.tensor(basis_matrix(HIDDEN_SIZE).matrix, dtype=torch.float32)
        matrix = basis @ torch.diag(matrix) @ basis.T
    _pruned_by_hand(by_hand, removed.layers, gap.end, matrix)
    text = torch.from_numpy(WINDOWS)
    with torch.inference_mode():
        logits = by_hand(text, use_cache=False).logits
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    value = read_json(tmp_path / "score.json")["value"]
    assert math.log(value) == pytest.approx(float(loss), rel=1e-5)

    pruned = load_model(manifest.parent, torch.float32, device=torch.device("cpu"))
    apply_plan(pruned, removed, patches)
    assert len(decoder_of(pruned).layers) == LAYERS - N
    prompt = text[:1, :5]
    written = pruned.generate(prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    with torch.inference_mode():
        for _ in range(6):
            following = by_hand(prompt, use_cache=False).logits[:, -1].argmax(dim=-1)
            prompt = torch.cat([prompt, following[:, None]], dim=1)
    assert torch.equal(written, prompt)


@pytest.mark.parametrize(
    ("family", "metric"),
    [("gpt2", "taylor"), ("falcon", "taylor"), ("bloom", "sleb"), ("mixtral", "sleb")],
)
def test_rankings_that_run_the_model(
    tmp_path: Path, tiny_model_folder: Any, family: str, metric: str
) -> None:
    manifest = tiny_model_folder(family, layers=LAYERS)
    windows, compute = tmp_path / "windows.parquet", tmp_path / "compute.json"
    tokens = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(windows, pa.table({"window": range(len(WINDOWS)), "token_ids": tokens}))
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    spec = {"selection": "s", "n_layers": LAYERS, "counts": [N], "metric": metric}
    spec |= {"params": {"windows": 2, "length": 16}, "windows": 3}
    options = [f"--model={manifest}", f"--windows={windows}", f"--compute={compute}"]
    _run(rank_layers, tmp_path, spec, *options, f"--ranking={tmp_path / 'ranking.parquet'}")
    candidates = read_ranking(tmp_path / "ranking.parquet").candidates
    first = {
        each.layers: each.score
        for each in candidates
        if each.eligible and each.score is not None and each.round in (None, 1)
    }
    ends = 1 if metric == "sleb" else 0  # SLEB leaves the first and the last layer in place.
    assert sorted(first) == [(layer,) for layer in range(ends, LAYERS - ends)]
    assert all(score > 0 for score in first.values()) and len(set(first.values())) == len(first)
    if metric == "sleb":
        text = torch.from_numpy(WINDOWS[:2])
        for (layer,), score in first.items():
            pruned = load_model(manifest.parent, torch.float32, device=torch.device("cpu"))
            _pruned_by_hand(pruned, (layer,), layer + 1, torch.eye(HIDDEN_SIZE))
            with torch.inference_mode():
                logits = pruned(text, use_cache=False).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
            assert score == pytest.approx(float(loss), rel=1e-5)


def test_branches_of_an_untested_family_are_left_alone(tiny_model: Any) -> None:
    layer = decoder_of(tiny_model("stablelm", layers=2)).layers[0]
    assert {"self_attn.o_proj", "mlp.down_proj"} < {name for name, _ in layer.named_modules()}
    with pytest.raises(LpstepsError, match="StableLmDecoderLayer: no output projections are known"):
        branch_outputs(layer)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "GraniteConfig",
            {"logits_scaling": 3.0},
            "its logits are not those of its language-model",
        ),
        ("CohereConfig", {"logit_scale": 0.3}, "its logits are not those of its language-model"),
        # It norms the embeddings with the module of the final norm.
        ("NanoChatConfig", {}, "its layers and its final norm are not called once each, one after"),
    ],
)
def test_a_model_that_is_no_chain_of_layers_norm_and_head_is_refused(
    tmp_path: Path, tiny_model_folder: Any, name: str, settings: dict[str, float], message: str
) -> None:
    FAMILIES["scaled"] = (name, {"intermediate_size": 80, **settings})
    try:
        folder = tiny_model_folder("scaled", layers=2).parent
    finally:
        del FAMILIES["scaled"]
    with pytest.raises(LpstepsError, match=message):
        load_model(folder, torch.float32)


UNSUPPORTED = {
    "BertConfig": ("BertForMaskedLM", "no causal language-model head .*BertForMaskedLM"),
    "T5Config": ("T5ForConditionalGeneration", "an encoder and a decoder"),
    "MambaConfig": ("MambaForCausalLM", "no attention heads, as state-space models"),
    "Gemma3Config": ("Gemma3ForConditionalGeneration", "text is one of several kinds of input"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_architectures_say_what_is_missing(tmp_path: Path, name: str) -> None:
    architecture, message = UNSUPPORTED[name]
    config = getattr(transformers, name)(architectures=[architecture]).to_dict()
    with pytest.raises(LpstepsError, match=rf"config.json: model_type: .*{message}") as error:
        check_family(config, "config.json")
    assert "\n" not in str(error.value)
    write_json(tmp_path / "config.json", config)
    with pytest.raises(LpstepsError, match=message):
        load_model(tmp_path, torch.float32)


@pytest.mark.parametrize("setting", ["hidden_size_per_layer_input", "num_kv_shared_layers"])
def test_layers_that_read_more_than_the_stream_are_refused(setting: str) -> None:
    config = transformers.Gemma3nTextConfig(architectures=["Gemma3nForCausalLM"]).to_dict()
    config |= {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
    check_family(config, "config.json")
    with pytest.raises(LpstepsError, match=f"gemma3n_text: cannot be pruned here: {setting}: "):
        check_family({**config, setting: 4}, "config.json")


def test_quantised_weights_are_refused() -> None:
    config = transformers.LlamaConfig(architectures=["LlamaForCausalLM"]).to_dict()
    check_family(config, "config.json")
    with pytest.raises(LpstepsError, match="llama: cannot be pruned here: its weights are quanti"):
        check_family({**config, "quantization_config": {"bits": 4}}, "config.json")
