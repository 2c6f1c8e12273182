"""Cutting and patching models, against a manual chain of the dense model's layers."""

from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, GEMMA4

from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.models.families import LAYOUTS
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.patch import Patch
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, OperationKind, PatchSet
from lpsteps.plan import Plan

N_LAYERS = 6
HIDDEN_SIZE = 48
TOKENS = torch.tensor(np.random.default_rng(3).integers(2, 128, (2, 11)))

PLANS = {
    "middle": (2, 3),
    "start": (0, 1),
    "end": (4, 5),
    "several": (0, 2, 3, 5),
    "one survivor": (0, 1, 2, 4, 5),
}


def plan_of(*layers: int) -> Plan:
    return Plan.removing(N_LAYERS, layers)


def random_patches(plan: Plan, seed: int = 0) -> PatchSet:
    """Return patches of a different kind for each gap: scale, matrix, and chains of both."""
    generator = np.random.default_rng(seed)
    gaps = []
    for number, (start, end) in enumerate(plan.gaps):
        scale = Operation("scale", generator.uniform(0.5, 2.0, HIDDEN_SIZE))
        matrix = Operation("matrix", generator.standard_normal((HIDDEN_SIZE, HIDDEN_SIZE)) / 5)
        operations = [(matrix, scale), (scale,), (matrix,), (scale, matrix, scale)][number % 4]
        gaps.append(GapPatch(start, end, operations))
    return PatchSet(tuple(gaps))


def operation_of(kind: str, seed: int = 0) -> Operation:
    """Return a random operation whose effect on a row is as large as the row."""
    generator = np.random.default_rng(seed)
    square = generator.standard_normal((HIDDEN_SIZE, HIDDEN_SIZE)) / HIDDEN_SIZE**0.5
    weight = {
        "scalar": np.array([0.4]),
        "scale": generator.uniform(0.5, 2.0, HIDDEN_SIZE),
        "matrix": square,
        "rotation": 1.6 * np.linalg.qr(square)[0],
        "shift": generator.standard_normal(HIDDEN_SIZE),
        "low_rank": generator.standard_normal((2, HIDDEN_SIZE, 5)) / 5,
        "gated_mlp": generator.standard_normal((3, HIDDEN_SIZE, 20)) / 3,
    }[kind]
    return Operation(kind, weight)  # type: ignore[arg-type]


def operated(operation: Operation, hidden: torch.Tensor) -> torch.Tensor:
    """Apply an operation row by row and term by term, in float64."""
    weight = operation.weight.astype(np.float64)
    shape = hidden.shape
    rows = []
    for row in hidden.double().numpy().reshape(-1, shape[-1]):
        match operation.kind:
            case "scalar":
                rows.append([float(weight[0]) * x for x in row])
            case "scale":
                rows.append([x * w for x, w in zip(row, weight, strict=True)])
            case "shift":
                rows.append([x + w for x, w in zip(row, weight, strict=True)])
            case "matrix" | "rotation":
                rows.append([(row * column).sum() for column in weight.T])
            case "low_rank":
                result = row.copy()
                for inward, outward in zip(weight[0].T, weight[1].T, strict=True):
                    result += (row * inward).sum() * outward
                rows.append(result)
            case "gated_mlp":
                unit = row / np.sqrt((row * row).sum() / len(row) + 1e-6)
                result = row.copy()
                for gate, up, down in zip(*(part.T for part in weight), strict=True):
                    opening = (unit * gate).sum()
                    sigmoid = 1.0 / (1.0 + np.exp(-opening))
                    result += opening * sigmoid * (unit * up).sum() * down
                rows.append(result)
    return torch.tensor(np.array(rows)).reshape(shape).to(hidden)


def manual_logits(model: Any, plan: Plan, patches: PatchSet | None) -> torch.Tensor:
    """Run the dense model layer by layer, skipping the plan's layers, in the plainest way."""
    decoder = decoder_of(model)
    calls: list[tuple[Any, dict[str, Any]]] = []

    def keep(module: Any, positional: Any, named: dict[str, Any]) -> None:
        calls.append((positional, dict(named)))

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in decoder.layers]
    decoder.backbone(input_ids=TOKENS, use_cache=False)
    for handle in handles:
        handle.remove()

    def bridge(hidden: torch.Tensor, entrance: int) -> torch.Tensor:
        for gap in patches.gaps if patches else ():
            if gap.end == entrance:
                for operation in gap.operations:
                    hidden = operated(operation, hidden)
        return hidden

    hidden = calls[0][0][0] if calls[0][0] else calls[0][1]["hidden_states"]
    for index, layer in enumerate(decoder.layers):
        if index not in plan.layers or (patches and index in patches.restored):
            positional, named = calls[index]
            named.pop("hidden_states", None)
            output = layer(bridge(hidden, index), *positional[1:], **named)
            hidden = output[0] if isinstance(output, tuple) else output
    return decoder.logits(decoder.norm(bridge(hidden, len(decoder.layers))))


def greedy(model: Any, use_cache: bool) -> list[list[int]]:
    # The sliding windows of the test models are shorter than what is generated.
    sequences = model.generate(
        TOKENS,
        attention_mask=torch.ones_like(TOKENS),
        max_new_tokens=10,
        do_sample=False,
        use_cache=use_cache,
    )
    return sequences.tolist()


@pytest.mark.parametrize("layers", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("patched", [False, True], ids=["bare", "patched"])
@torch.no_grad()
def test_pruned_llama_equals_the_manual_chain(
    tiny_llama: Any, layers: tuple[int, ...], patched: bool
) -> None:
    plan = plan_of(*layers)
    patches = random_patches(plan) if patched else None
    dense = tiny_llama(TOKENS).logits
    expected = manual_logits(tiny_llama, plan, patches)
    apply_plan(tiny_llama, plan, patches)
    pruned = tiny_llama(TOKENS).logits
    torch.testing.assert_close(pruned, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(pruned, dense, atol=1e-2)


@torch.no_grad()
def test_every_family_equals_the_manual_chain(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    plan = plan_of(0, 2, 3, 5)
    patches = random_patches(plan)
    expected = manual_logits(model, plan, patches)
    apply_plan(model, plan, patches)
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", get_args(OperationKind))
@torch.no_grad()
def test_every_kind_of_operation_in_every_family(tiny_model: Any, family: str, kind: str) -> None:
    model = tiny_model(family)
    plan = plan_of(1, 2, 4, 5)
    patches = PatchSet(
        (GapPatch(1, 3, (operation_of(kind),)), GapPatch(4, 6, (operation_of(kind, seed=1),)))
    )
    bare = manual_logits(model, plan, None)
    expected = manual_logits(model, plan, patches)
    apply_plan(model, plan, patches)
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, bare, atol=1e-2)


@pytest.mark.parametrize("kind", get_args(OperationKind))
def test_an_operation_equals_its_definition(kind: str) -> None:
    hidden = torch.randn(2, 5, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))
    # A row of zeros and a tiny one: where a norm is guarded by its epsilon.
    hidden[0, 0] = 0.0
    hidden[0, 1] *= 1e-3
    operations = (operation_of(kind), operation_of("shift", seed=4), operation_of(kind, seed=1))
    expected = hidden
    for operation in operations:
        expected = operated(operation, expected)
    patched = Patch(GapPatch(0, 1, operations))(hidden)
    torch.testing.assert_close(patched, expected, rtol=1e-5, atol=2e-5)


def replacements_of(model: Any, *names: str) -> dict[str, np.ndarray]:
    """Return new float64 values for the backbone's parameters whose names start with `names`."""
    generator = np.random.default_rng(5)
    return {
        name: parameter.double().numpy() + generator.uniform(-0.2, 0.2, tuple(parameter.shape))
        for name, parameter in decoder_of(model).backbone.named_parameters()
        if name.startswith(names)
    }


def replaced(model: Any, replacements: dict[str, np.ndarray]) -> Any:
    """Return a copy of the dense model with other parameters, set through its state."""
    duplicate = copy.deepcopy(model)
    backbone = decoder_of(duplicate).backbone
    state = {name: torch.tensor(values) for name, values in replacements.items()}
    unexpected = backbone.load_state_dict(state, strict=False).unexpected_keys
    assert not unexpected
    return duplicate


@torch.no_grad()
def test_replacements_use_the_numbers_of_the_dense_model(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    plan = plan_of(1, 2, 4)
    # Layers in front of, between and behind the gaps, and a parameter outside the layers.
    outside = next(
        name
        for name, _ in decoder_of(model).backbone.named_parameters()
        if name.startswith(("norm.", "final_layer_norm."))
    )
    replacements = replacements_of(model, "layers.0.", "layers.3.", "layers.5.", outside)
    assert len(replacements) >= 3 * 6 + 1
    patches = PatchSet((GapPatch(1, 3, (operation_of("scale"),)),), replacements=replacements)
    expected = manual_logits(replaced(model, replacements), plan, patches)
    without = manual_logits(model, plan, patches)
    apply_plan(model, plan, patches)
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, without, atol=1e-2)


@pytest.mark.parametrize("restored", [(1,), (2,), (3,), (1, 3), (1, 2, 3), (2, 5)], ids=str)
@torch.no_grad()
def test_restored_layers_keep_their_place_in_front_of_the_patch(
    tiny_model: Any, family: str, restored: tuple[int, ...]
) -> None:
    model = tiny_model(family)
    layer_types = list(getattr(model.config, "layer_types", None) or [])
    plan = plan_of(1, 2, 3, 5)
    replacements = replacements_of(model, *(f"layers.{layer}." for layer in restored))
    patches = PatchSet(
        (GapPatch(1, 4, (operation_of("matrix"),)), GapPatch(5, 6, (operation_of("scalar"),))),
        replacements=replacements,
        restored=restored,
    )
    expected = manual_logits(replaced(model, replacements), plan, patches)
    apply_plan(model, plan, patches)
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    survivors = sorted({0, 4, *restored})
    assert model.config.num_hidden_layers == len(survivors)
    if layer_types:
        assert model.config.layer_types == [layer_types[index] for index in survivors]
    assert greedy(model, use_cache=True) == greedy(model, use_cache=False)


@torch.no_grad()
def test_replacements_take_the_dtype_of_the_parameter(tiny_llama: Any) -> None:
    model = tiny_llama.to(torch.bfloat16)
    name = "layers.4.mlp.down_proj.weight"
    values = np.random.default_rng(0).standard_normal((HIDDEN_SIZE, 80))
    apply_plan(model, plan_of(2, 3), PatchSet(replacements={name: values}))
    weight = decoder_of(model).layers[2].get_parameter("mlp.down_proj.weight")
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, torch.tensor(values).to(torch.bfloat16))
    assert not weight.requires_grad


@torch.no_grad()
def test_a_replaced_embedding_stays_tied(tiny_model: Any) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    values = np.random.default_rng(0).standard_normal((128, HIDDEN_SIZE)).astype(np.float32)
    apply_plan(model, plan_of(2), PatchSet(replacements={"embed_tokens.weight": values}))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, torch.tensor(values))


@pytest.mark.parametrize("layers", [(0,), (1, 2), (2, 5), (0, 1, 4)], ids=str)
@torch.no_grad()
def test_generation_with_cache_equals_generation_without(
    tiny_model: Any, family: str, layers: tuple[int, ...]
) -> None:
    model = tiny_model(family)
    plan = plan_of(*layers)
    dense = greedy(model, use_cache=False)
    apply_plan(model, plan, random_patches(plan))
    with_cache = greedy(model, use_cache=True)
    assert with_cache == greedy(model, use_cache=False)
    assert with_cache != dense


@torch.no_grad()
def test_config_and_numbers_follow_the_survivors(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    layer_types = list(getattr(model.config, "layer_types", None) or [])
    survivors = list(decoder_of(model).layers)
    apply_plan(model, plan_of(1, 2, 4))
    layers = decoder_of(model).layers
    assert [id(layer) for layer in layers] == [id(survivors[index]) for index in (0, 3, 5)]
    for number, layer in enumerate(layers):
        indices = {m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")}
        assert indices == {number}
    assert model.config.num_hidden_layers == 3
    if layer_types:
        assert model.config.layer_types == [layer_types[index] for index in (0, 3, 5)]


@torch.no_grad()
def test_pruned_model_can_be_saved_and_loaded(tiny_model: Any, family: str, tmp_path: Any) -> None:
    from lpsteps.models.loading import load_model

    model = tiny_model(family)
    apply_plan(model, plan_of(1, 2))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layers_without_rotary_embedding_are_loaded_as_such(tmp_path: Any) -> None:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    from lpsteps.models.loading import load_model

    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(
        SmolLM3Config(
            vocab_size=128,
            hidden_size=HIDDEN_SIZE,
            intermediate_size=80,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            no_rope_layers=[1, 1, 1, 0, 1, 1],
            pad_token_id=0,
        )
    ).eval()
    apply_plan(model, plan_of(1, 4))
    assert model.config.no_rope_layers == [1, 1, 0, 1]
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("step", "listed", "shortened"),
    [(1, [0, 3], [2]), (2, [3], [1, 2, 3])],
    ids=["all", "every-2nd"],
)
def test_layers_without_experts_are_loaded_as_such(
    tiny_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    step: int,
    listed: list[int],
    shortened: list[int],
) -> None:
    from lpsteps.models.loading import load_model

    settings = {
        "intermediate_size": 80,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    monkeypatch.setitem(FAMILIES, "qwen3_moe", ("Qwen3MoeConfig", settings))
    model = tiny_model("qwen3_moe", decoder_sparse_step=step, mlp_only_layers=listed)
    # Those with experts then have even places, which a step of two would leave without.
    apply_plan(model, plan_of(0))
    assert model.config.mlp_only_layers == shortened
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_settings_that_only_some_layers_have_follow_the_survivors(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from lpsteps.models.loading import load_model

    monkeypatch.setitem(FAMILIES, "gemma4", GEMMA4)
    model = tiny_model("gemma4")
    plan = plan_of(0, 3)
    expected = manual_logits(model, plan, None)
    apply_plan(model, plan)
    assert [layer.head_dim for layer in model.config.per_layer_config] == [24, 12, 12, 24]
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    assert greedy(model, use_cache=True) == greedy(model, use_cache=False)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(loaded(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)


def scaled_by_setting(model: Any, setting: str) -> Any:
    """Make each layer multiply its output by the entry of a setting that has its number."""

    def scale(layer: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        return output * getattr(model.config, setting)[layer.self_attn.layer_idx]

    setattr(model.config, setting, [1.0, 1.3, 0.6, 1.8, 0.7, 1.5])
    for layer in decoder_of(model).layers:
        layer.register_forward_hook(scale)
    return model


@torch.no_grad()
def test_settings_of_the_layers_follow_the_survivors(tiny_model: Any) -> None:
    model = scaled_by_setting(tiny_model("smollm3"), "layer_scales")
    # Six numbers, but not one for each layer; and the numbers of the layers that are of a kind.
    model.config.eos_token_id = [1, 3, 5, 7, 9, 11]
    model.config.moe_layers = [0, 1, 2, 3, 4, 5]
    plan = plan_of(0, 2, 3)
    patches = random_patches(plan)
    expected = manual_logits(model, plan, patches)
    apply_plan(model, plan, patches)
    assert model.config.layer_scales == [1.3, 0.7, 1.5]
    assert model.config.eos_token_id == [1, 3, 5, 7, 9, 11]
    assert model.config.moe_layers == [0, 1, 2]
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_model_that_goes_by_unknown_settings_of_its_layers_is_refused(tiny_model: Any) -> None:
    model = scaled_by_setting(tiny_model("smollm3"), "scales_by_depth")
    with pytest.raises(LpstepsError, match=r"smollm3: cannot be pruned here: .* their numbers"):
        apply_plan(model, plan_of(2))
    # Behind the last survivor nothing is renumbered.
    apply_plan(scaled_by_setting(tiny_model("smollm3"), "scales_by_depth"), plan_of(4, 5))


@torch.no_grad()
def test_a_config_that_cannot_describe_the_survivors_is_refused(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "intermediate_size": 80,
        "num_key_value_heads": 2,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "num_experts": 1,
        "mamba_d_state": 4,
        "use_mamba_kernels": False,
    }
    monkeypatch.setitem(FAMILIES, "jamba", ("JambaConfig", settings))
    model = tiny_model("jamba")
    before = model(TOKENS).logits
    with pytest.raises(
        LpstepsError, match=r"jamba: its config derives layer.*of the layers.*2, 3,"
    ):
        apply_plan(model, plan_of(1))
    assert len(decoder_of(model).layers) == model.config.num_hidden_layers == N_LAYERS
    assert torch.equal(model(TOKENS).logits, before)
    # A whole period, so that the pattern of the others is the same.
    apply_plan(model, plan_of(0, 1, 2))
    assert model.config.layers_block_type == ["mamba", "attention", "mamba"]


@torch.no_grad()
def test_plan_without_gaps_changes_nothing(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    before = model(TOKENS).logits
    keys = list(model.state_dict())
    config = model.config.to_dict()
    apply_plan(model, Plan.dense(N_LAYERS), PatchSet())
    assert torch.equal(model(TOKENS).logits, before)
    assert list(model.state_dict()) == keys
    assert model.config.to_dict() == config


@pytest.mark.parametrize("layers", PLANS.values(), ids=PLANS)
@torch.no_grad()
def test_unit_scales_are_the_identity(tiny_llama: Any, layers: tuple[int, ...]) -> None:
    plan = plan_of(*layers)
    basis = basis_matrix(HIDDEN_SIZE).matrix
    unit = Operation("matrix", basis @ np.diag(np.ones(HIDDEN_SIZE)) @ basis.T)
    bare = copy.deepcopy(tiny_llama)
    apply_plan(bare, plan)
    patches = PatchSet(tuple(GapPatch(start, end, (unit,)) for start, end in plan.gaps))
    apply_plan(tiny_llama, plan, patches)
    expected = bare(TOKENS).logits
    torch.testing.assert_close(tiny_llama(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    hidden = torch.randn(7, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))
    for gap in patches.gaps:
        assert (Patch(gap)(hidden) - hidden).abs().max() < 1e-6


def test_gap_without_operations_is_left_bare(tiny_llama: Any) -> None:
    bare = copy.deepcopy(tiny_llama)
    apply_plan(bare, plan_of(2, 3))
    apply_plan(tiny_llama, plan_of(2, 3), PatchSet((GapPatch(2, 4, ()),)))
    assert torch.equal(tiny_llama(TOKENS).logits, bare(TOKENS).logits)


def test_deep_copy_has_its_own_patch(tiny_llama: Any) -> None:
    plan = plan_of(2, 3)
    apply_plan(tiny_llama, plan, random_patches(plan))
    before = tiny_llama(TOKENS).logits
    duplicate = copy.deepcopy(tiny_llama)
    patch = decoder_of(duplicate).layers[2].get_submodule("input_patch")
    with torch.no_grad():
        for weight in patch.parameters():
            weight.mul_(2.0)
    assert torch.equal(tiny_llama(TOKENS).logits, before)
    assert not torch.allclose(duplicate(TOKENS).logits, before, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_patch_computes_in_float32_and_returns_the_input_dtype(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((HIDDEN_SIZE, HIDDEN_SIZE))
    scale = generator.uniform(0.5, 2.0, HIDDEN_SIZE)
    patch = Patch(GapPatch(0, 1, (Operation("matrix", weight), Operation("scale", scale))))
    hidden = torch.randn(3, 4, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.tensor(hidden.double().numpy() @ weight * scale).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        patched = patch(hidden)
    assert patched.dtype == dtype
    # In bfloat16 throughout the error would be in the order of 1e-1.
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    torch.testing.assert_close(patched, expected, rtol=tolerance, atol=1e-4)
    if dtype == torch.float32:
        assert (patched - expected).abs().max() < 1e-4


def test_mistakes_are_named_and_leave_the_model_alone(tiny_llama: Any) -> None:
    before = tiny_llama(TOKENS).logits
    with pytest.raises(LpstepsError, match="n_layers: 7: the model has 6"):
        apply_plan(tiny_llama, Plan.removing(7, (1,)))
    elsewhere = random_patches(plan_of(1))
    with pytest.raises(LpstepsError, match=r"patch: \[1, 2\): not a gap of the plan"):
        apply_plan(tiny_llama, plan_of(2, 3), elsewhere)
    narrow = PatchSet((GapPatch(2, 4, (Operation("scale", np.ones(8)),)),))
    with pytest.raises(LpstepsError, match="width 8: but the model's hidden size is 48"):
        apply_plan(tiny_llama, plan_of(2, 3), narrow)
    wide = np.ones((2, 50, 3))
    with pytest.raises(LpstepsError, match="width 50: but the model's hidden size is 48"):
        apply_plan(
            tiny_llama,
            plan_of(2, 3),
            PatchSet((GapPatch(2, 4, (Operation("low_rank", wide),)),)),
        )
    assert torch.equal(tiny_llama(TOKENS).logits, before)


@pytest.mark.parametrize(
    ("names", "extra", "restored", "complaint"),
    [
        (
            (),
            {"layers.1.mlp.down_prj.weight": (48, 80)},
            (),
            r"down_prj.*layers\.1\.mlp\.down_proj",
        ),
        ((), {"model.norm.weight": (48,)}, (), r"no such parameter; the nearest names are .*norm"),
        ((), {"layers.6.input_layernorm.weight": (48,)}, (), "no such parameter"),
        ((), {"norm.weight": (47,)}, (), r"norm\.weight: shape \[47\]: the parameter has \[48\]"),
        ((), {"layers.1.mlp.down_proj.weight": (80, 48)}, (), r"\[80, 48\].* has \[48, 80\]"),
        ((), {"layers.3.input_layernorm.weight": (48,)}, (), r"layers\.3\..* removes layer 3"),
        (("layers.1.",), {}, (1,), r"restored: 1: not a layer of the plan, .* \[2, 3\]"),
        (("layers.2.mlp",), {}, (2,), r"restored: 2: layers\.2\.input_layernorm\.weight: missing"),
        (("layers.2.",), {"layers.3.input_layernorm.weight": (48,)}, (2,), "removes layer 3"),
    ],
)
def test_mistaken_replacements_are_named_and_leave_the_model_alone(
    tiny_llama: Any,
    names: tuple[str, ...],
    extra: dict[str, tuple[int, ...]],
    restored: tuple[int, ...],
    complaint: str,
) -> None:
    before = tiny_llama(TOKENS).logits
    replacements = replacements_of(tiny_llama, "norm.", *names)
    replacements |= {name: np.ones(shape) for name, shape in extra.items()}
    patches = PatchSet(replacements=replacements, restored=restored)
    with pytest.raises(LpstepsError, match=complaint) as error:
        apply_plan(tiny_llama, plan_of(2, 3), patches)
    assert "\n" not in str(error.value)
    assert torch.equal(tiny_llama(TOKENS).logits, before)
    assert len(decoder_of(tiny_llama).layers) == N_LAYERS


def test_branch_outputs_are_what_the_stream_gains(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    layer = decoder_of(model).layers[1]
    outputs = branch_outputs(layer)
    assert outputs.normalised == (family in ("gemma2", "gemma3", "olmo2"))
    assert outputs.normalised == LAYOUTS[model.config.model_type].norms_branches
    assert outputs.attention is not outputs.mlp
    hidden = torch.randn(1, 4, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))
    # Without its two branches a layer is the identity.
    for linear in (outputs.attention, outputs.mlp):
        assert linear.out_features == HIDDEN_SIZE
        for parameter in linear.parameters():
            parameter.data.zero_()
    position = torch.ones(1, 4, 12), torch.zeros(1, 4, 12)
    output = layer(hidden, attention_mask=None, position_embeddings=position)
    assert torch.equal(output[0] if isinstance(output, tuple) else output, hidden)


def test_a_layer_of_another_family_has_no_known_branches() -> None:
    with pytest.raises(LpstepsError, match="layer: Linear: no output projections"):
        branch_outputs(torch.nn.Linear(3, 3))
