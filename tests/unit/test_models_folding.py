"""Folded models against the same patches computed at run time."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES

from lpsteps.errors import LpstepsError
from lpsteps.export.comparison import folded_tolerance, least_variances, norm_epsilon
from lpsteps.models.folding import epsilon_error, fold_patches
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan

N_LAYERS = 6
HIDDEN_SIZE = 48
TOKENS = torch.tensor(np.random.default_rng(3).integers(2, 128, (2, 11)))

ROTATABLE = ["llama", "mistral", "phi3", "qwen2", "qwen3"]
NOT_ROTATABLE = {
    "gemma2": "norms .* follow",
    "gemma3": "norms .* follow",
    "gpt_neox": "LayerNorm subtracts",
    "olmo2": "norms .* follow",
    "opt": "LayerNorm subtracts",
}
PLANS = {
    "middle": (2, 3),
    "start": (0, 1),
    "end": (4, 5),
    "several": (0, 2, 4, 5),
    "one survivor": (0, 1, 2, 4, 5),
}


def plan_of(*layers: int) -> Plan:
    return Plan.removing(N_LAYERS, layers)


def scalar(value: float) -> Operation:
    return Operation("scalar", np.array([value]))


def rotation(scale: float, seed: int) -> Operation:
    gaussian = np.random.default_rng(seed).standard_normal((HIDDEN_SIZE, HIDDEN_SIZE))
    return Operation("rotation", scale * np.linalg.qr(gaussian)[0])


def scalars(plan: Plan) -> PatchSet:
    values = (2.5, 0.6, 1.7)
    return PatchSet(
        tuple(
            GapPatch(start, end, (scalar(value),))
            for (start, end), value in zip(plan.gaps, values, strict=False)
        )
    )


def rotations(plan: Plan) -> PatchSet:
    """Return a rotation for each gap, with scalars around that of the second one."""
    gaps = []
    for number, (start, end) in enumerate(plan.gaps):
        operations = (rotation(1.7 - 0.5 * number, seed=number),)
        if number == 1:
            operations = (scalar(2.2), *operations, scalar(0.8))
        gaps.append(GapPatch(start, end, operations))
    return PatchSet(tuple(gaps))


@pytest.fixture
def varied_model(tiny_model: Any) -> Any:
    """A factory of tiny models whose norm weights and biases differ from channel to channel.

    Their embeddings are 100 times as large as their initialisation, so that their mean square stays
    far above the norms' epsilon: some gaps lie right behind the embedding, where that alone sets
    the models apart (`test_only_the_epsilon_of_the_norms_sets_the_models_apart`).
    """

    def make(family: str, **options: Any) -> Any:
        model = tiny_model(family, **options)
        generator = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator) - 0.4)
        model.get_input_embeddings().weight.mul_(100.0)
        return model

    return make


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest deviation relative to the largest logit of the same token."""
    return float(
        ((found - expected).abs().amax(dim=-1) / expected.abs().amax(dim=-1)).max(),
    )


def fold_and_compare(model: Any, plan: Plan, patches: PatchSet) -> None:
    """Fold the patches into `model` and compare it with the unfolded one."""
    unfolded, bare = copy.deepcopy(model), copy.deepcopy(model)
    apply_plan(unfolded, plan, patches)
    apply_plan(bare, plan, replace(patches, gaps=()))
    fold_patches(model, plan, patches)
    expected = unfolded(TOKENS).logits
    assert difference(model(TOKENS).logits, expected) < 1e-4
    assert model.state_dict().keys() - {"lm_head.weight"} == bare.state_dict().keys() - {
        "lm_head.weight"
    }
    # A scale in front of the final norm alone has no effect.
    if any(gap.end < N_LAYERS or _rotates(gap) for gap in patches.gaps):
        assert difference(bare(TOKENS).logits, expected) > 1e-2


def _rotates(gap: GapPatch) -> bool:
    return any(operation.kind == "rotation" for operation in gap.operations)


@pytest.mark.parametrize("layers", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@torch.no_grad()
def test_folded_scalars_equal_the_patches(
    varied_model: Any, family: str, layers: tuple[int, ...], tied: bool
) -> None:
    model = varied_model(family, tie_word_embeddings=tied)
    head = decoder_of(model).lm_head.weight.clone()
    embedding = model.get_input_embeddings().weight.clone()
    plan = plan_of(*layers)
    fold_and_compare(model, plan, scalars(plan))
    assert torch.equal(decoder_of(model).lm_head.weight, head)
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert model.config.tie_word_embeddings is tied


@pytest.mark.parametrize("family", ROTATABLE)
@pytest.mark.parametrize("layers", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@torch.no_grad()
def test_folded_rotations_equal_the_patches(
    varied_model: Any, family: str, layers: tuple[int, ...], tied: bool
) -> None:
    model = varied_model(family, tie_word_embeddings=tied)
    embedding = model.get_input_embeddings().weight.clone()
    plan = plan_of(*layers)
    fold_and_compare(model, plan, rotations(plan))
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize("patches", [scalars, rotations])
@torch.no_grad()
def test_biases_are_folded_as_well(varied_model: Any, patches: Any) -> None:
    model = varied_model("llama", attention_bias=True, mlp_bias=True)
    assert model.model.layers[5].mlp.down_proj.bias.abs().max() > 0.1
    plan = plan_of(1, 3)
    fold_and_compare(model, plan, patches(plan))


@torch.no_grad()
def test_a_scalar_gap_in_front_of_a_rotated_one(varied_model: Any) -> None:
    plan = plan_of(0, 2, 4)
    patches = PatchSet(
        (
            GapPatch(0, 1, (scalar(0.5), scalar(5.0))),
            GapPatch(2, 3, (rotation(0.7, seed=0), rotation(2.0, seed=1))),
            GapPatch(4, 5, (scalar(0.4),)),
        )
    )
    fold_and_compare(varied_model("qwen3"), plan, patches)


@torch.no_grad()
def test_layers_in_front_of_the_gap_keep_their_weights(varied_model: Any, family: str) -> None:
    model = varied_model(family)
    plan = plan_of(2, 3)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            # Lost as soon as one is added to it.
            parameter[0] = 1e-20
    before = {
        name: parameter.clone()
        for name, parameter in decoder_of(model).backbone.named_parameters()
        if name.startswith(("layers.0.", "layers.1."))
    }
    fold_patches(model, plan, scalars(plan))
    after = dict(decoder_of(model).backbone.named_parameters())
    assert len(before) >= 2 * 6
    for name, values in before.items():
        assert torch.equal(after[name], values), name


@pytest.mark.parametrize("kind", ["scalar", "rotation"])
@torch.no_grad()
def test_replacements_and_restored_layers_are_part_of_the_folded_model(
    varied_model: Any, kind: str
) -> None:
    model = varied_model("llama")
    plan = plan_of(1, 2, 3)
    generator = np.random.default_rng(0)
    replacements = {
        name: parameter.numpy() + generator.uniform(-0.2, 0.2, tuple(parameter.shape))
        for name, parameter in model.model.named_parameters()
        if name.startswith(("layers.2.", "layers.4.mlp."))
    }
    operation = scalar(1.9) if kind == "scalar" else rotation(1.9, seed=2)
    patches = PatchSet((GapPatch(1, 4, (operation,)),), replacements=replacements, restored=(2,))
    fold_and_compare(model, plan, patches)
    assert model.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("name", "patches", "tied"),
    [
        ("llama", scalars, True),
        ("llama", rotations, False),
        ("llama", rotations, True),
        ("phi3", rotations, True),
        ("qwen2", rotations, True),
        ("gemma2", scalars, True),
        ("gemma3", scalars, True),
        ("gpt_neox", scalars, False),
        ("mistral", rotations, True),
        ("olmo2", scalars, False),
        ("opt", scalars, True),
        ("qwen3", rotations, True),
    ],
)
@torch.no_grad()
def test_a_folded_model_loads_into_its_stock_class(
    varied_model: Any, tmp_path: Path, name: str, patches: Any, tied: bool
) -> None:
    model = varied_model(name, tie_word_embeddings=tied)
    unfolded = copy.deepcopy(model)
    plan = plan_of(0, 2, 3)
    apply_plan(unfolded, plan, patches(plan))
    fold_patches(model, plan, patches(plan))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32, device=torch.device("cpu"))
    assert type(loaded) is type(model)
    assert loaded.config.num_hidden_layers == 3
    shared = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert shared == (tied and patches is scalars)
    assert difference(loaded(TOKENS).logits, unfolded(TOKENS).logits) < 1e-4
    for use_cache in (True, False):
        options = {
            "attention_mask": torch.ones_like(TOKENS),
            "max_new_tokens": 8,
            "do_sample": False,
            "use_cache": use_cache,
        }
        assert torch.equal(loaded.generate(TOKENS, **options), unfolded.generate(TOKENS, **options))


@torch.no_grad()
def test_only_the_epsilon_of_the_norms_sets_the_models_apart(tiny_model: Any) -> None:
    # A gap right behind small embeddings, the worst case.
    model = tiny_model("llama", rms_norm_eps=1e-5)
    plan = plan_of(0)
    patches = PatchSet((GapPatch(0, 1, (scalar(3.0),)),))
    unfolded = copy.deepcopy(model)
    apply_plan(unfolded, plan, patches)
    fold_patches(model, plan, patches)
    found, expected = model(TOKENS).logits, unfolded(TOKENS).logits
    assert difference(found, expected) > 1e-3
    norms = [module for module in unfolded.modules() if hasattr(module, "variance_epsilon")]
    assert len(norms) == 2 * 5 + 1
    deviation = difference(found, unfolded(TOKENS).logits)
    variances = least_variances(unfolded, TOKENS)
    assert len(variances) == 6
    error = epsilon_error(norm_epsilon(unfolded), variances, plan, patches)
    assert error == pytest.approx(8.0 * 1e-5 / 2.0 / min(variances))
    # Such an export is refused, though epsilon is all that sets it apart.
    assert folded_tolerance(torch.float32, error) == 1e-2 < deviation < 10 * error
    for norm in norms:
        norm.variance_epsilon *= 9.0
    assert difference(found, unfolded(TOKENS).logits) < 1e-5


@torch.no_grad()
def test_epsilon_counts_behind_folds_alone(tiny_model: Any) -> None:
    """A token of zeros in front of the fold has no norm that differs."""
    plan = plan_of(1, 3)
    patches = PatchSet(
        (GapPatch(1, 2, (scalar(2.0), rotation(1.5, seed=0))), GapPatch(3, 4, (scalar(0.5),)))
    )
    variances = [0.0, 4.0, 5.0, 6.0, 7.0]
    # Boundaries of layers 0, 2, 4, 5 and of the final norm: scales 1, 3, 1.5, 1.5, 1.5.
    assert epsilon_error(1e-3, variances, plan, patches) == pytest.approx(8.0 * 1e-3 / 2.0 / 4.0)
    variances[1] = 1e6
    error = epsilon_error(1e-3, variances, plan, patches)
    assert error == pytest.approx(1.25 * 1e-3 / 2.0 / 5.0)
    variances[1] = 0.0
    assert epsilon_error(1e-3, variances, plan, patches) == np.inf
    assert folded_tolerance(torch.float32, np.inf) == 1e-2
    assert folded_tolerance(torch.float32, 0.0) == 1e-4
    assert folded_tolerance(torch.float32, 1e-6) == pytest.approx(1.5e-4)
    assert folded_tolerance(torch.bfloat16, 1e-3) == 0.25


@torch.no_grad()
def test_olmo2_is_exact_whatever_the_epsilon(tiny_model: Any) -> None:
    # Nothing but its final norm reads the stream through a norm.
    model = tiny_model("olmo2", rms_norm_eps=1e-2)
    plan = plan_of(0)
    patches = PatchSet((GapPatch(0, 1, (scalar(3.0),)),))
    unfolded = copy.deepcopy(model)
    apply_plan(unfolded, plan, patches)
    fold_patches(model, plan, patches)
    found = model(TOKENS).logits
    assert difference(found, unfolded(TOKENS).logits) > 1e-3
    unfolded.model.norm.variance_epsilon *= 9.0
    assert difference(found, unfolded(TOKENS).logits) < 1e-5


@torch.no_grad()
def test_dtype_and_gradients_are_kept(varied_model: Any) -> None:
    model = varied_model("llama", tie_word_embeddings=True).to(torch.bfloat16)
    plan = plan_of(2, 3)
    unfolded = copy.deepcopy(model)
    apply_plan(unfolded, plan, rotations(plan))
    fold_patches(model, plan, rotations(plan))
    for parameter in model.parameters():
        assert parameter.dtype == torch.bfloat16
        assert not parameter.requires_grad
    assert difference(model(TOKENS).logits.float(), unfolded(TOKENS).logits.float()) < 0.1


def test_every_family_is_known_to_fold_rotations_or_not_to(families: list[str]) -> None:
    assert sorted([*ROTATABLE, *NOT_ROTATABLE]) == families


@pytest.mark.parametrize(("family", "reason"), NOT_ROTATABLE.items(), ids=NOT_ROTATABLE)
@torch.no_grad()
def test_rotations_are_refused_where_norms_stand_in_the_way(
    tiny_model: Any, family: str, reason: str
) -> None:
    model = tiny_model(family)
    before = model(TOKENS).logits
    plan = plan_of(2)
    with pytest.raises(LpstepsError, match=rf"patch: \[2, 3\): rotation: .* {family}.*{reason}"):
        fold_patches(model, plan, rotations(plan))
    assert torch.equal(model(TOKENS).logits, before)
    assert len(decoder_of(model).layers) == N_LAYERS


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("scale", (48,)),
        ("matrix", (48, 48)),
        ("shift", (48,)),
        ("low_rank", (2, 48, 1)),
        ("gated_mlp", (3, 48, 1)),
    ],
)
def test_other_operations_are_refused_by_name(
    tiny_llama: Any, kind: str, shape: tuple[int, ...]
) -> None:
    before = tiny_llama(TOKENS).logits
    operation = Operation(kind, np.ones(shape))  # type: ignore[arg-type]
    patches = PatchSet((GapPatch(2, 3, (scalar(2.0),)), GapPatch(4, 6, (scalar(2.0), operation))))
    assert not patches.foldable
    with pytest.raises(LpstepsError, match=rf"patch: \[4, 6\): {kind}: cannot be folded"):
        fold_patches(tiny_llama, plan_of(2, 4, 5), patches)
    assert torch.equal(tiny_llama(TOKENS).logits, before)


def test_scalars_are_refused_where_the_writers_to_the_stream_are_unknown(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    smollm3 = ("SmolLM3Config", {"intermediate_size": 80, "num_key_value_heads": 2})
    monkeypatch.setitem(FAMILIES, "smollm3", smollm3)
    model = tiny_model("smollm3")
    before = model(TOKENS).logits
    plan = plan_of(2, 3)
    with pytest.raises(LpstepsError, match=r"\[2, 4\): scalar: cannot be folded into smollm3"):
        fold_patches(model, plan, scalars(plan))
    assert len(decoder_of(model).layers) == N_LAYERS
    assert torch.equal(model(TOKENS).logits, before)
    # What changes no weight behind the gap needs no such knowledge.
    fold_patches(model, plan, PatchSet((GapPatch(2, 4, ()),)))
    assert len(decoder_of(model).layers) == N_LAYERS - 2


def test_layers_of_other_code_are_refused_before_anything_changes(tiny_llama: Any) -> None:
    """As in Baichuan-13B, which says that it is the family of Baichuan-7B."""
    layer = tiny_llama.model.layers[5]
    layer.__class__ = type("OwnLayer", (type(layer),), {})
    before = tiny_llama(TOKENS).logits
    plan = plan_of(2, 3)
    with pytest.raises(LpstepsError, match="OwnLayer: no output projections are known"):
        fold_patches(tiny_llama, plan, scalars(plan))
    assert len(decoder_of(tiny_llama).layers) == N_LAYERS
    assert torch.equal(tiny_llama(TOKENS).logits, before)


def test_a_patch_for_another_model_is_refused(tiny_llama: Any) -> None:
    before = tiny_llama(TOKENS).logits
    with pytest.raises(LpstepsError, match="not a gap of the plan"):
        fold_patches(tiny_llama, plan_of(2), scalars(plan_of(3)))
    narrow = PatchSet((GapPatch(2, 3, (Operation("rotation", np.eye(8)),)),))
    with pytest.raises(LpstepsError, match="width 8: but the model's hidden size is 48"):
        fold_patches(tiny_llama, plan_of(2), narrow)
    assert torch.equal(tiny_llama(TOKENS).logits, before)
