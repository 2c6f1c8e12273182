# SPDX-License-Identifier: Apache-2.0
"""A language model from which decoder layers were removed, with small maps in their place.

It is the model class of the dense model with fewer layers. `config.patches` lists the maps: each
acts on the rows of the residual stream in front of one layer, or in front of the final norm.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers import LlamaConfig as BaseConfig
from transformers import LlamaForCausalLM as BaseForCausalLM

if int(transformers.__version__.partition(".")[0]) < 5:
    # Earlier releases look for the base of the rotary angles elsewhere, and take another one.
    raise ImportError(
        f"transformers {transformers.__version__} computes another model; install 5 or later"
    )

LAYERS = "model.layers"
FINAL_NORM = "model.norm"
RMS_EPSILON = 1e-6


class LayerPrunedConfig(BaseConfig):
    """The config of the dense model's class, and the maps in place of removed layers.

    Attributes:
        patches: For each map `entrance`, the number of the layer in front of which it acts (the
            number of layers for the final norm), and `operations`: `kind` and `shape` of the
            weights of each, in the order in which they are applied.
    """

    model_type = "layer_pruned"

    patches: list[dict[str, Any]] | None = None


class LayerPatch(nn.Module):
    """Operations on the rows of the residual stream, one after the other, in float32."""

    def __init__(self, operations: list[dict[str, Any]]) -> None:
        """Make the weights, which are zero until a checkpoint fills them."""
        super().__init__()
        self.kinds = [operation["kind"] for operation in operations]
        for number, operation in enumerate(operations):
            weight = nn.Parameter(torch.zeros(operation["shape"], dtype=torch.float32))
            self.register_parameter(f"weight_{number}", weight)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states `[..., hidden_size]`; the result has their dtype and device."""
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            rows = hidden.float()
            for number, kind in enumerate(self.kinds):
                weight = self.get_parameter(f"weight_{number}")
                rows = operate(kind, weight.float(), rows.to(weight.device))
        return rows.to(hidden)


def operate(kind: str, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Apply one operation to rows `[..., hidden_size]`."""
    if kind in ("scalar", "scale"):
        return rows * weight
    if kind in ("matrix", "rotation"):
        return rows @ weight
    if kind == "shift":
        return rows + weight
    if kind == "low_rank":
        return rows + (rows @ weight[0]) @ weight[1].T
    if kind == "gated_mlp":
        square = rows.square().mean(dim=-1, keepdim=True)
        normalised = rows * torch.rsqrt(square + RMS_EPSILON)
        gate = nn.functional.silu(normalised @ weight[0])
        return rows + (gate * (normalised @ weight[1])) @ weight[2].T
    raise ValueError(f"patches: {kind}: not an operation that this file knows")


class LayerPrunedForCausalLM(BaseForCausalLM):
    """The dense model's class with a map in front of the layers that follow a cut."""

    config_class = LayerPrunedConfig
    # The maps were made in float32 and act so whatever the dtype of the model.
    _keep_in_fp32_modules_strict = ("input_patch",)

    def __init__(self, config: LayerPrunedConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
        entrances = [*self.get_submodule(LAYERS), self.get_submodule(FINAL_NORM)]
        for patch in config.patches or []:
            entrance = entrances[patch["entrance"]]
            # As a part of the layer it goes to the layer's device.
            entrance.add_module("input_patch", LayerPatch(patch["operations"]))
            entrance.register_forward_pre_hook(apply_input_patch, with_kwargs=True)


def apply_input_patch(
    entrance: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the hidden states that a layer or norm is called with by patched ones."""
    patch = entrance.get_submodule("input_patch")
    if positional:
        return (patch(positional[0]), *positional[1:]), named
    return positional, {**named, "hidden_states": patch(named["hidden_states"])}
