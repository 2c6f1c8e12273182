"""Broken models: what a folder may hold in place of a decoder-only language model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from faults.bad_input import BadInput
from faults.commands import Step
from faults.workspace import DELETE, Workspace

FETCH = Step("fetch_model", "models/tiny/")
CONFIG = "model/config.json"
WEIGHTS = "model/model.safetensors"
TOKENIZER = "model/tokenizer.json"
EMBEDDING = "model.embed_tokens.weight"

TAKEN = "resources/models/tiny"
CALIBRATE = Step("calibrate", "models/tiny/")
TOKENIZE = Step("tokenize_corpus", "wikipedia/calibration")


def _config(name: str, key: str, value: Any, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.set(CONFIG, key, value), FETCH, says)


def _file(name: str, file: str, content: bytes | str, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.write(file, content), FETCH, says)


def edit_weights(workspace: Workspace, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Edit the weights of the model that has been fetched, and let its manifest agree."""
    name = f"{TAKEN}/model.safetensors"
    tensors = load(workspace.read(name))
    edit(tensors)
    workspace.write_listed(name, save(tensors, metadata={"format": "pt"}))


def _weights(name: str, edit: Callable[[dict[str, np.ndarray]], None], *says: str) -> BadInput:
    return BadInput(name, lambda w: edit_weights(w, edit), CALIBRATE, says)


def _fetched_weight(name: str, value: float) -> BadInput:
    def edit(workspace: Workspace) -> None:
        tensors = load(workspace.read(WEIGHTS))
        tensors[EMBEDDING] = tensors[EMBEDDING].copy()
        tensors[EMBEDDING].flat[0] = value
        workspace.write(WEIGHTS, save(tensors, metadata={"format": "pt"}))

    return BadInput(name, edit, FETCH, (WEIGHTS, EMBEDDING, "take another copy of the model"))


def _without_token(workspace: Workspace) -> None:
    """Take the token that begins a text away from the fetched tokenizer."""
    name = f"{TAKEN}/tokenizer_config.json"
    content = json.loads(workspace.read(name))
    content.pop("bos_token", None)
    workspace.write_listed(name, json.dumps(content))


def _only_pickled(workspace: Workspace) -> None:
    workspace.remove(WEIGHTS)
    workspace.write("model/pytorch_model.bin", b"\x80\x04N.")


def _one_weight_more(workspace: Workspace) -> None:
    tensors = load(workspace.read(WEIGHTS))
    tensors["more"] = tensors[EMBEDDING]
    workspace.write(WEIGHTS, save(tensors, metadata={"format": "pt"}))


CASES = [
    _config("a model with an encoder", "is_encoder_decoder", True, "config.json", "decoder layers"),
    _config("a model of no family", "model_type", DELETE, "config.json: model_type", "no family"),
    BadInput(
        "a model of a family that does not exist",
        lambda w: w.write_listed(
            f"{TAKEN}/config.json",
            w.read(f"{TAKEN}/config.json").replace(b'"llama"', b'"lama"'),
        ),
        CALIBRATE,
        (TAKEN, "model type `lama`"),
    ),
    BadInput(
        "an encoder in place of a decoder",
        lambda w: w.change(
            CONFIG, lambda c: c.update(model_type="bert", architectures=["BertForMaskedLM"])
        ),
        FETCH,
        ("config.json: model_type: bert", "a ...ForCausalLM class is needed"),
    ),
    BadInput(
        "a state-space model",
        lambda w: w.write(CONFIG, json.dumps({"model_type": "mamba", "hidden_size": 48})),
        FETCH,
        ("config.json: model_type: mamba", "layers with attention are needed"),
    ),
    _config(
        "a model of text and pictures",
        "text_config",
        {},
        "config.json",
        "save its language model alone",
    ),
    _config(
        "a quantised model",
        "quantization_config",
        {"bits": 4},
        "config.json",
        "take the repository with the original ones",
    ),
    BadInput(
        "a model that brings code along",
        lambda w: w.change(
            CONFIG,
            lambda c: c.update(model_type="own", auto_map={"AutoModelForCausalLM": "m.Own"}),
        ),
        FETCH,
        ("config.json: auto_map", "trust_remote_code: true"),
    ),
    _config(
        "another number of layers than the entry says",
        "num_hidden_layers",
        7,
        "n_layers: 6",
        "correct config/models.yaml",
    ),
    _config(
        "another width than the entry says",
        "hidden_size",
        64,
        "hidden_size: 48",
        "correct config/models.yaml",
    ),
    _config(
        "a width in words", "hidden_size", "wide", "config.json: hidden_size", "must be an integer"
    ),
    _config(
        "no number of layers",
        "num_hidden_layers",
        DELETE,
        "config.json: num_hidden_layers",
        "must be an integer",
    ),
    _file("a model whose config is not JSON", CONFIG, "{", "config.json", "not valid JSON"),
    _file("a model whose config is a list", CONFIG, "[]", "config.json", "expected a JSON object"),
    _file("a model whose config is not UTF-8", CONFIG, b"\xff", "config.json", "not valid JSON"),
    BadInput(
        "a folder without a config", lambda w: w.remove(CONFIG), FETCH, ("model: no config.json",)
    ),
    BadInput(
        "a folder without weights",
        lambda w: w.remove(WEIGHTS),
        FETCH,
        ("no *.safetensors there", "convert it"),
    ),
    BadInput(
        "pickled weights",
        _only_pickled,
        FETCH,
        ("pytorch_model.bin, which could run code", "convert it to safetensors"),
    ),
    BadInput(
        "weights that were cut off",
        lambda w: w.truncate(WEIGHTS),
        FETCH,
        ("model.safetensors", "not a valid safetensors file"),
    ),
    _file(
        "no bytes in place of weights",
        WEIGHTS,
        b"",
        "model.safetensors",
        "not a valid safetensors file",
    ),
    _file(
        "a pickle with the name of safetensors",
        WEIGHTS,
        b"\x80\x04cos\nsystem\n.",
        "model.safetensors",
        "not a valid safetensors file",
    ),
    _file(
        "a header of weights longer than all memory",
        WEIGHTS,
        b"\xff" * 7 + b"\x7f{}",
        "model.safetensors",
        "not a valid safetensors file",
    ),
    _file(
        "a page of the web in place of weights",
        WEIGHTS,
        b"<html>404 Not Found</html>",
        "model.safetensors",
        "not a valid safetensors file",
    ),
    BadInput(
        "one weight more than the entry says",
        _one_weight_more,
        FETCH,
        ("parameters:", "correct config/models.yaml"),
    ),
    BadInput(
        "a model of a folder that is not there",
        lambda w: None,
        Step(
            "fetch_model", "models/tiny/", spec=(("source", {"kind": "local", "path": "no/where"}),)
        ),
        ("no/where: no config.json there",),
    ),
    BadInput(
        "a branch of the Hub in place of a commit",
        lambda w: None,
        Step(
            "fetch_model",
            "models/tiny/",
            spec=(("source", {"kind": "hub", "repo": "owner/name", "revision": "main"}),),
        ),
        ("--spec: source", "revision", "a full commit hash"),
    ),
    _fetched_weight("a weight that is not a number", float("nan")),
    _fetched_weight("an infinite weight", float("inf")),
    _weights(
        "weights of another shape", lambda t: t.update({EMBEDDING: t[EMBEDDING][:, :24]}), TAKEN
    ),
    _weights(
        "a layer without its weights", lambda t: t.pop("model.layers.3.mlp.up_proj.weight"), TAKEN
    ),
    _weights(
        "fewer tokens in the embedding than in the text",
        lambda t: t.update({EMBEDDING: t[EMBEDDING][:100]}),
        TAKEN,
    ),
    BadInput(
        "a tokenizer without the token that begins a text",
        _without_token,
        Step("tokenize_corpus", "wikipedia/calibration", spec=(("add_bos", True),)),
        ("add_bos: true", "no BOS token"),
    ),
    BadInput(
        "a tokenizer that is not JSON",
        lambda w: w.write_listed(f"{TAKEN}/tokenizer.json", "{"),
        TOKENIZE,
        (TAKEN, "tokenizer"),
    ),
    BadInput(
        "a tokenizer of another format",
        lambda w: w.write_listed(f"{TAKEN}/tokenizer.json", "{}"),
        TOKENIZE,
        (TAKEN, "tokenizer"),
    ),
]
