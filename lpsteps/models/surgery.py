"""Removing decoder layers from a model in memory, and bridging the gaps with patches."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.layer_calls import split_call
from lpsteps.models.layers import decoder_of
from lpsteps.models.patch import Patch
from lpsteps.patches import GapPatch, PatchSet
from lpsteps.plan import Plan

# Settings of a config that hold one value for each layer, by which a family gives its layers their
# masks, rotary embeddings, caches and MLPs.
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")


def apply_plan(model: PreTrainedModel, plan: Plan, patches: PatchSet | None = None) -> None:
    """Remove the plan's layers from `model`, in place, and insert the patches.

    Parameters are replaced first, cast to their own dtype and in place, so tied weights stay tied.
    A patch acts on the *input* of the first layer after its gap, or of the final norm when the gap
    reaches the end, so a gap may lie anywhere, also at layer 0; a restored layer keeps its place
    inside the gap, in front of the patch. The survivors are renumbered and the config shortened,
    so that `generate` finds its way through the key-value cache. A plan without gaps and a patch
    set without replacements change nothing.

    Args:
        model: A causal language model of a known family.
        plan: Which layers to remove.
        patches: At most one patch per gap of the plan; None leaves the gaps as they are.

    Raises:
        LpstepsError: The plan or the patches do not belong to the model, as `check_plan` says. The
            model is then untouched.
    """
    patches = patches or PatchSet()
    check_plan(model, plan, patches)
    decoder = decoder_of(model)
    parameters = decoder.parameters()
    with torch.no_grad():
        for name, values in patches.replacements.items():
            parameters[name].copy_(torch.tensor(values))
    entrances = [*decoder.layers, decoder.norm]
    for gap in patches.gaps:
        _insert_patch(entrances[gap.end], Patch(gap).to(model.device))
    survivors = surviving_layers(plan, patches)
    for layer in reversed(range(plan.n_layers)):
        if layer not in survivors:
            del decoder.layers[layer]
    for index, survivor in enumerate(decoder.layers):
        for module in survivor.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    model.config.num_hidden_layers = len(decoder.layers)
    for name in _PER_LAYER:
        settings = getattr(model.config, name, None)
        if settings is not None:
            setattr(model.config, name, [settings[layer] for layer in survivors])


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
