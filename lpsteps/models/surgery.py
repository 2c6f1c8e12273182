"""Removing decoder layers from a model in memory, and bridging the gaps with patches."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.models.patch import Patch
from lpsteps.patches import PatchSet
from lpsteps.plan import Plan


def apply_plan(model: PreTrainedModel, plan: Plan, patches: PatchSet | None = None) -> None:
    """Remove the plan's layers from `model`, in place, and insert the patches.

    A patch acts on the *input* of the first layer after its gap, or of the final norm when the gap
    reaches the end, so a gap may lie anywhere, also at layer 0. The survivors are renumbered and
    the config shortened, so that `generate` finds its way through the key-value cache. A plan
    without gaps changes nothing.

    Args:
        model: A causal language model of a known family.
        plan: Which layers to remove.
        patches: At most one patch per gap of the plan; None leaves the gaps as they are.

    Raises:
        LpstepsError: The plan is for another number of layers, or a patch belongs to no gap or has
            another width than the model. The model is then untouched.
    """
    decoder = decoder_of(model)
    if plan.n_layers != len(decoder.layers):
        raise LpstepsError(
            f"plan: n_layers: {plan.n_layers}: the model has {len(decoder.layers)} decoder layers"
        )
    gap_patches = patches.gaps if patches is not None else ()
    for gap in gap_patches:
        _check_patch(gap, plan, model.config.hidden_size)

    entrances = [*decoder.layers, decoder.norm]
    for gap in gap_patches:
        _insert_patch(entrances[gap.end], Patch(gap).to(model.device))
    for layer in reversed(plan.layers):
        del decoder.layers[layer]
    for index, survivor in enumerate(decoder.layers):
        for module in survivor.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    model.config.num_hidden_layers = len(decoder.layers)
    # Families with mixed attention look up each layer's mask, rotary embedding and cache by number.
    layer_types = getattr(model.config, "layer_types", None)
    if layer_types is not None:
        model.config.layer_types = [
            layer_type for index, layer_type in enumerate(layer_types) if index not in plan.layers
        ]


def _check_patch(gap: Any, plan: Plan, hidden_size: int) -> None:
    if (gap.start, gap.end) not in plan.gaps:
        raise LpstepsError(
            f"patch: [{gap.start}, {gap.end}): not a gap of the plan, whose gaps are "
            f"{[list(gap) for gap in plan.gaps]}"
        )
    for operation in gap.operations:
        if operation.weight.shape[0] != hidden_size:
            raise LpstepsError(
                f"patch: [{gap.start}, {gap.end}): width {operation.weight.shape[0]}: "
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
    if positional:
        return (patch(positional[0]), *positional[1:]), named
    return positional, {**named, "hidden_states": patch(named["hidden_states"])}
