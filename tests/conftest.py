"""Tiny random models of every supported family, built in milliseconds and never downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_families import COMMON, FAMILIES, FURTHER

# Tests run side by side; one thread each also keeps their rounding the same on any machine.
os.environ.setdefault("LPSTEPS_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ModelFactory = Callable[..., Any]


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each supported model family in turn."""
    return str(request.param)


@pytest.fixture
def families() -> list[str]:
    """All supported model families."""
    return sorted(FAMILIES)


@pytest.fixture
def tiny_model() -> ModelFactory:
    """A factory `tiny_model(family="llama", layers=6, seed=0, **config)` of random models."""

    def make(family: str = "llama", layers: int = 6, seed: int = 0, **config: Any) -> Any:
        import torch
        import transformers

        name, settings = {**FURTHER, **FAMILIES}[family]
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, name)(
                **COMMON | settings | {"num_hidden_layers": layers} | config
            )
        )
        # At their small initial scale random layers hardly move the residual stream, and a test
        # that confuses two of them would pass.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2 and "layers" in name:
                    parameter.mul_(5.0)
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture
def tiny_llama(tiny_model: ModelFactory) -> Any:
    """A random Llama with 6 layers, hidden size 48 and 128 tokens."""
    return tiny_model("llama")


@pytest.fixture
def tiny_model_folder(tiny_model: ModelFactory, tmp_path: Path) -> ModelFactory:
    """A factory like `tiny_model` that saves the model and returns the path of its manifest."""

    def make(family: str = "llama", **options: Any) -> Path:
        from lpsteps.artifacts import file_manifest, write_json

        folder = tmp_path / "models" / family
        tiny_model(family, **options).save_pretrained(folder)
        manifest = file_manifest(folder, [path.name for path in folder.iterdir()])
        write_json(folder / "manifest.json", manifest)
        return folder / "manifest.json"

    return make
