"""Removing decoder layers from a model in memory, and bridging the gaps with patches."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.families import is_tested
from lpsteps.models.layer_calls import output_of, split_call
from lpsteps.models.layers import decoder_of
from lpsteps.models.patch import Patch
from lpsteps.patches import GapPatch, PatchSet
from lpsteps.plan import Plan

# Settings of a config that hold one value for each layer, by which a family gives its layers their
# masks, rotary embeddings, caches and MLPs. Of others, those with "layer" in their name are taken.
_PER_LAYER = (
    "activation_sparsity_pattern",
    "indexer_types",
    "intermediate_size",
    "layer_types",
    "mlp_layer_types",
    "no_rope_layers",
)
# Settings that list the numbers of the layers of a kind, by which a model is built.
_LAYER_NUMBERS = ("mlp_only_layers", "moe_layers")
# Tokens on which the pruned model of an untested family is checked.
_TOKENS = 8


def apply_plan(model: PreTrainedModel, plan: Plan, patches: PatchSet | None = None) -> None:
    """Remove the plan's layers from `model`, in place, and insert the patches.

    Parameters are replaced in place, cast to their own dtype, so tied weights stay tied.
    A patch acts on the *input* of the first layer after its gap, or of the final norm when the gap
    reaches the end, so a gap may lie anywhere, also at layer 0; a restored layer keeps its place
    inside the gap, in front of the patch. The survivors are renumbered and the config shortened,
    so that `generate` finds its way through the key-value cache. A plan without gaps and a patch
    set without replacements change nothing.

    What a model of an untested family does by the number of a layer is not known. So it is run on a
    few tokens, dense with the removed layers skipped and pruned, before it is patched.

    Args:
        model: A causal language model of a known family.
        plan: Which layers to remove.
        patches: At most one patch per gap of the plan; None leaves the gaps as they are.

    Raises:
        LpstepsError: The plan or the patches do not belong to the model, as `check_plan` says, or
            its config cannot describe the survivors; the model is then untouched. Or the survivors
            compute something else than in the dense model; it is then pruned.
    """
    patches = patches or PatchSet()
    check_plan(model, plan, patches)
    decoder = decoder_of(model)
    survivors = surviving_layers(plan, patches)
    settings = _settings_of(model.config, survivors, plan.n_layers)
    removed = [decoder.layers[layer] for layer in range(plan.n_layers) if layer not in survivors]
    expected = None
    if removed and not is_tested(model.config.model_type):
        expected = _logits_without(model, removed)
    parameters = decoder.parameters()
    entrances = [*decoder.layers, decoder.norm]
    for layer in reversed(range(plan.n_layers)):
        if layer not in survivors:
            del decoder.layers[layer]
    for index, survivor in enumerate(decoder.layers):
        for module in survivor.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    for name, values in settings.items():
        setattr(model.config, name, values)
    if expected is not None:
        _check_logits(model, expected)
    with torch.no_grad():
        for name, values in patches.replacements.items():
            parameters[name].copy_(torch.tensor(values))
    for gap in patches.gaps:
        _insert_patch(entrances[gap.end], Patch(gap).to(model.device))


def surviving_layers(plan: Plan, patches: PatchSet) -> list[int]:
    """Return the layers of the pruned model by their numbers in the dense one, ascending."""
    removed = set(plan.layers) - set(patches.restored)
    return [layer for layer in range(plan.n_layers) if layer not in removed]


def check_plan(model: PreTrainedModel, plan: Plan, patches: PatchSet) -> None:
    """Check that a plan and its patches belong to a model.

    Args:
        model: The dense model.
        plan: Which layers to remove.
        patches: What repairs it.

    Raises:
        LpstepsError: The plan is for another number of layers; a patch belongs to no gap or has
            another width than the model; a restored layer is not one of the plan's, or not all of
            its parameters are replaced; or a replacement has no parameter of its name and shape
            in the pruned model.
    """
    decoder = decoder_of(model)
    plan.require_layers(len(decoder.layers), "plan")
    for gap in patches.gaps:
        _check_gap(gap, plan, model.config.hidden_size)
    for layer in patches.restored:
        if layer not in plan.layers:
            raise LpstepsError(
                f"restored: {layer}: not a layer of the plan, which removes {list(plan.layers)}"
            )
    shapes = {name: tuple(parameter.shape) for name, parameter in decoder.parameters().items()}
    survivors = surviving_layers(plan, patches)
    for name, values in patches.replacements.items():
        if name not in shapes:
            closest = ", ".join(difflib.get_close_matches(name, shapes, n=3, cutoff=0.0))
            raise LpstepsError(
                f"replacements: {name}: no such parameter; the nearest names are {closest}"
            )
        if values.shape != shapes[name]:
            raise LpstepsError(
                f"replacements: {name}: shape {list(values.shape)}: "
                f"the parameter has {list(shapes[name])}"
            )
    for layer, module in enumerate(decoder.layers):
        names = {f"layers.{layer}.{name}" for name, _ in module.named_parameters()}
        replaced = names & patches.replacements.keys()
        if layer not in survivors and replaced:
            raise LpstepsError(
                f"replacements: {min(replaced)}: the plan removes layer {layer}; "
                "leave the parameter out, or name the layer in restored"
            )
        if layer in patches.restored and replaced != names:
            raise LpstepsError(
                f"restored: {layer}: {min(names - replaced)}: missing from the replacements, which "
                "must hold every parameter of a restored layer"
            )


def _check_gap(gap: GapPatch, plan: Plan, hidden_size: int) -> None:
    if (gap.start, gap.end) not in plan.gaps:
        raise LpstepsError(
            f"patch: [{gap.start}, {gap.end}): not a gap of the plan, whose gaps are "
            f"{[list(gap) for gap in plan.gaps]}"
        )
    for operation in gap.operations:
        if operation.hidden_size not in (None, hidden_size):
            raise LpstepsError(
                f"patch: [{gap.start}, {gap.end}): width {operation.hidden_size}: "
                f"but the model's hidden size is {hidden_size}"
            )


def _settings_of(
    config: PreTrainedConfig, survivors: Sequence[int], n_layers: int
) -> dict[str, Any]:
    """Return the settings of a config that change with its layers, as the survivors need them.

    Raises:
        LpstepsError: One is derived from other settings, which cannot give it for the survivors.
    """
    settings: dict[str, Any] = {"num_hidden_layers": len(survivors)}
    for name, values in vars(config).items():
        if _is_per_layer(name, values, n_layers):
            settings[name] = type(values)(values[layer] for layer in survivors)
    for name in _LAYER_NUMBERS:
        numbers = getattr(config, name, None)
        if numbers is not None:
            settings[name] = [new for new, layer in enumerate(survivors) if layer in numbers]
    # Families that list layers without experts also take experts in every so-many-th layer alone.
    step = getattr(config, "decoder_sparse_step", 1)
    if step > 1 and len(survivors) < n_layers and "mlp_only_layers" in settings:
        settings["mlp_only_layers"] = [
            new
            for new, layer in enumerate(survivors)
            if layer in config.mlp_only_layers or (layer + 1) % step
        ]
        settings["decoder_sparse_step"] = 1
    # Where layers differ in settings that are no lists, those that do have theirs by their numbers.
    if getattr(config, "is_heterogeneous", False):
        overrides = {int(key): kept for key, kept in config.to_dict()["per_layer_config"].items()}
        settings["per_layer_config"] = {
            new: overrides[layer] for new, layer in enumerate(survivors) if layer in overrides
        }
    shortened = copy.deepcopy(config)
    for name, values in settings.items():
        setattr(shortened, name, values)
    kind = type(config)
    for name in dir(kind):
        if "layer" not in name or not isinstance(getattr(kind, name), property):
            continue
        values = getattr(config, name)
        if not _is_per_layer(name, values, n_layers):
            continue
        if list(getattr(shortened, name)) != [values[layer] for layer in survivors]:
            raise LpstepsError(
                f"model_type: {config.model_type}: its config derives {name} from other settings, "
                f"which cannot describe a model of the layers {list(survivors)}; remove the last "
                "layers, or take another model"
            )
    return settings


def _is_per_layer(name: str, values: object, n_layers: int) -> bool:
    """Tell whether a setting has a value for each layer, and not as many values by chance."""
    if not isinstance(values, list | tuple) or len(values) != n_layers:
        return False
    if not all(value is None or isinstance(value, str | int | float) for value in values):
        return False
    # Some list the numbers of the layers that are of a kind, in the end all.
    numbers = all(type(value) is int for value in values) and list(values) == list(range(n_layers))
    return name in _PER_LAYER or ("layer" in name and not numbers)


def _logits_without(model: PreTrainedModel, layers: Iterable[nn.Module]) -> torch.Tensor:
    """Return the logits of a few tokens when some layers hand on what they read."""

    def hand_on(
        _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Any:
        hidden, _call = split_call(positional, named)
        # A layer on a further device reads it there, and what follows reads where its output is.
        hidden = hidden.to(output_of(output).device)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [layer.register_forward_hook(hand_on, with_kwargs=True) for layer in layers]
    try:
        return _logits(model)
    finally:
        for handle in handles:
            handle.remove()


def _logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.arange(_TOKENS, device=model.device)[None]
    # Not in inference mode: what a model keeps from its first run may be needed in a training.
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits.float()


def _check_logits(model: PreTrainedModel, expected: torch.Tensor) -> None:
    """Check that a pruned model gives the logits of the dense one whose layers were skipped.

    Raises:
        LpstepsError: It does not.
    """
    # Sums over experts are not taken in a fixed order on a GPU.
    rounding = 1e-3 if model.dtype == torch.float32 else 5e-2
    largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if not torch.allclose(
        _logits(model), expected, rtol=0.0, atol=rounding * largest, equal_nan=True
    ):
        raise LpstepsError(
            f"model_type: {model.config.model_type}: cannot be pruned here: without some of its "
            "layers the others do not compute what they do in the dense model, so its code goes by "
            "their numbers; take a model of another family"
        )


def _insert_patch(entrance: nn.Module, patch: Patch) -> None:
    """Make `patch` part of the module `entrance`, applied to the hidden states that it reads."""
    entrance.add_module("input_patch", patch)
    entrance.register_forward_pre_hook(_apply_input_patch, with_kwargs=True)


def _apply_input_patch(
    entrance: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # The patch is looked up on the module rather than bound to the hook, so that a deep copy of
    # the model uses its own.
    patch = entrance.get_submodule("input_patch")
    hidden, call = split_call(positional, named)
    return (patch(hidden), *call.positional), dict(call.named)
