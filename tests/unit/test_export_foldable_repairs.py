"""Every repair that folds, from its own `build` to a checkpoint that plain transformers loads.

The folded checkpoint is compared with the unfolded model: operations on the stream as modules, a
map of an MLP's output as a hook behind its projection, and LoRA's adapters beside theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from exported import HIDDEN_SIZE, difference
from transformers import AutoModelForCausalLM

from lpsteps.artifacts import write_json
from lpsteps.calibration import stream_statistics
from lpsteps.export.checkpoint import Pruning, write_checkpoint
from lpsteps.hadamard import basis_matrix
from lpsteps.inputs import ModelInput
from lpsteps.models import branch_fold
from lpsteps.models.gap_moments import gap_moments
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import PatchSet, read_patches, write_patches
from lpsteps.plan import Plan
from lpsteps.recovery import (
    lora,
    procrustes,
    procrustes_replaceme,
    prune_and_comp,
    replaceme,
    replaceme_cosine,
    streamline_layer,
)
from lpsteps.recovery.base import RecoveryContext
from lpsteps.statistics import Statistics

N_LAYERS = 7
# Two gaps, so that the second one is folded into layers that the first has changed.
PLAN = Plan.removing(N_LAYERS, (1, 2, 4, 5))
SEED = 3
CPU = torch.device("cpu")
# The text's first token is the one that gets massive activations.
MASSIVE = 2
_RANDOM = np.random.default_rng(7)
# Few of the 128 tokens behind it, so that trained repairs have something to learn.
WINDOWS = np.hstack([np.full((16, 1), MASSIVE), _RANDOM.integers(3, 20, (16, 31))])
TOKENS = torch.tensor(np.hstack([np.full((4, 1), MASSIVE), _RANDOM.integers(3, 128, (4, 20))]))

Transforms = dict[int, torch.Tensor]


@dataclass(frozen=True)
class Repair:
    """A repair that folds, with the other family that it is tried in beside LLaMA.

    Attributes:
        method: Its module.
        family: One that differs where this repair folds: norms behind the branches, biases, fused
            projections, norms of queries and keys.
        params: Its parameters.
        branch: Whether it reads moments of the MLP in front of each gap.
    """

    method: ModuleType
    family: str
    params: Mapping[str, Any] = field(default_factory=dict)
    branch: bool = False


TRAINED = {"epochs": 1, "batch": 4, "learning_rate": 1e-2}
REPAIRS = {
    "prune_and_comp": Repair(prune_and_comp, "gemma2"),
    "procrustes": Repair(procrustes, "phi3"),
    "replaceme": Repair(replaceme, "opt", branch=True),
    "procrustes_replaceme": Repair(procrustes_replaceme, "qwen3", branch=True),
    "replaceme_cosine": Repair(replaceme_cosine, "gpt_neox", TRAINED),
    "lora": Repair(lora, "opt", {**TRAINED, "rank": 4}),
    "streamline_layer": Repair(streamline_layer, "gemma3", TRAINED),
}
CASES = [(name, family) for name in REPAIRS for family in ("llama", REPAIRS[name].family)]


@pytest.fixture
def dense_folder(tiny_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A factory of saved models with activations like those of trained ones.

    Gains and biases differ from channel to channel, and the first token of each window has massive
    activations. Embeddings are 25 times as large as their initialisation, for a stream far above
    the norms' epsilon: behind the first layer of SmolLM2-135M the mean square of a token is 2.4 at
    least, here 0.14. With embeddings of a fifth, epsilon alone moved logits of phi3 by 1.7e-4.
    """

    def make(family: str, *, tied: bool) -> Path:
        model = tiny_model(family, layers=N_LAYERS, tie_word_embeddings=tied)
        generator = torch.Generator().manual_seed(5)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator) - 0.4)
        embedding = model.get_input_embeddings().weight
        embedding.mul_(25.0)
        embedding[MASSIVE] *= 6.0
        folder = tmp_path / "dense"
        model.save_pretrained(folder)
        return folder

    return make


def context_of(folder: Path, repair: Repair) -> RecoveryContext:
    """What the steps in front of `build_patch` measure."""
    write_json(folder.with_name("compute.json"), {"dtype": "float32", "device": "cpu"})
    source = ModelInput(folder, folder.with_name("compute.json"), WINDOWS)
    model = source.load()
    basis = basis_matrix(HIDDEN_SIZE)
    samples = list(stream_statistics(model, WINDOWS, basis))
    statistics = Statistics(
        basis_name=basis.name,
        model="tiny",
        tokens=np.array([sample.tokens for sample in samples]),
        means={
            name: np.stack([sample.mean_absolute[name] for sample in samples])
            for name in ("identity", "hadamard")
        },
        pairs=np.stack([sample.cosine for sample in samples]),
    )
    moments = gap_moments(model, WINDOWS, PLAN.gaps, branch=repair.branch)
    return RecoveryContext(PLAN, HIDDEN_SIZE, statistics, moments, source, SEED)


@dataclass
class Watched:
    """What a `build` hands on before it folds: transforms of MLPs, by layer, and loaded models."""

    transforms: Transforms = field(default_factory=dict)
    models: list[Any] = field(default_factory=list)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen = Watched()
    fold, load = branch_fold.folded_branch, ModelInput.load

    def folded_branch(model: Any, layer: int, transform: Any) -> Any:
        seen.transforms[layer] = torch.tensor(transform, dtype=torch.float32)
        return fold(model, layer, transform)

    def loaded(source: ModelInput, *args: Any, **named: Any) -> Any:
        seen.models.append(load(source, *args, **named))
        return seen.models[-1]

    monkeypatch.setattr(branch_fold, "folded_branch", folded_branch)
    monkeypatch.setattr(ModelInput, "load", loaded)
    return seen


def unfolded_model(dense: Any, patches: PatchSet, watched: Watched) -> Any:
    """The pruned model with all that the repair adds beside its weights."""
    if patches.replacements and not (patches.gaps or patches.restored or watched.transforms):
        # LoRA's adapters are still beside the projections of the model that was healed.
        (healed,) = (m for m in watched.models if len(decoder_of(m).layers) < N_LAYERS)
        assert any("lora_A" in name for name, _ in healed.named_parameters())
        return healed
    model = copy.deepcopy(dense)
    for layer, transform in watched.transforms.items():
        branch_outputs(decoder_of(model).layers[layer]).mlp.register_forward_hook(
            lambda _, __, output, transform=transform: output @ transform
        )
    kept = {} if watched.transforms else patches.replacements
    apply_plan(model, PLAN, PatchSet(patches.gaps, {}, kept, patches.restored))
    return model


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("name", "family"), CASES, ids=["-".join(case) for case in CASES])
@torch.no_grad()
def test_the_folded_checkpoint_has_the_logits_of_the_unfolded_model(
    dense_folder: Callable[..., Path],
    watched: Watched,
    tmp_path: Path,
    name: str,
    family: str,
    tied: bool,
) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    repair = REPAIRS[name]
    folder = dense_folder(family, tied=tied)
    context = context_of(folder, repair)
    with torch.enable_grad():
        built = repair.method.build(context, repair.method.Params(**repair.params))
    assert built.foldable
    # As a step leaves it for the export: rounded to float32.
    tensors, manifest = tmp_path / "patch.safetensors", tmp_path / "patch.manifest.json"
    write_patches(tensors, manifest, built, recovery=name)
    patches = read_patches(manifest)

    dense = load_model(folder, torch.float32, device=CPU)
    expected = unfolded_model(dense, built, watched)(TOKENS, use_cache=False).logits
    bare = copy.deepcopy(dense)
    apply_plan(bare, PLAN)
    assert difference(bare(TOKENS).logits, expected) > 1e-2

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    assert write_checkpoint(dense, Pruning(PLAN, patches), checkpoint, None) == "stock"
    assert not list(checkpoint.glob("*.py"))
    found = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert type(found) is type(dense)
    left = N_LAYERS - len(PLAN.layers) + len(patches.restored)
    assert len(decoder_of(found).layers) == left == found.config.num_hidden_layers
    # A rotated head is no longer the embedding.
    rotated = name.startswith("procrustes")
    assert found.config.tie_word_embeddings is (tied and not rotated)
    assert difference(found(TOKENS).logits, expected) < 1e-4
