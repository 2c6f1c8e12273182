# SPDX-License-Identifier: Apache-2.0
"""A language model whose layers keep different numbers of attention heads and MLP channels.

It is the model class of the dense model with smaller matrices in some layers, which
`config.widths` lists.
"""

from __future__ import annotations

from typing import Any

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


class WidthPrunedConfig(BaseConfig):
    """The config of the dense model's class, and what stays of its narrower layers.

    Attributes:
        widths: For each narrower layer its number `layer`, `key_value_heads` and `channels`, the
            numbers of key-value heads and of MLP channels that it has.
    """

    model_type = "width_pruned"

    widths: list[dict[str, int]] | None = None


class WidthPrunedForCausalLM(BaseForCausalLM):
    """The dense model's class with narrower layers.

    Attention finds the number of its heads in the shapes of its matrices. A static key-value cache
    takes it from the config instead, so only the default, dynamic one can be used.
    """

    config_class = WidthPrunedConfig

    def __init__(self, config: WidthPrunedConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
        layers = self.get_submodule(LAYERS)
        for width in config.widths or []:
            narrow(layers[width["layer"]], width["key_value_heads"], width["channels"])


def narrow(layer: Any, heads: int, channels: int) -> None:
    """Give a decoder layer so many key-value heads and MLP channels."""
    attention, mlp = layer.self_attn, layer.mlp
    rows = heads * attention.head_dim
    queries = attention.q_proj.out_features // attention.k_proj.out_features
    attention.q_proj = resized(attention.q_proj, outputs=rows * queries)
    attention.k_proj = resized(attention.k_proj, outputs=rows)
    attention.v_proj = resized(attention.v_proj, outputs=rows)
    attention.o_proj = resized(attention.o_proj, inputs=rows * queries)
    mlp.gate_proj = resized(mlp.gate_proj, outputs=channels)
    mlp.up_proj = resized(mlp.up_proj, outputs=channels)
    mlp.down_proj = resized(mlp.down_proj, inputs=channels)


def resized(
    linear: nn.Linear, *, inputs: int | None = None, outputs: int | None = None
) -> nn.Linear:
    """Return a linear module of another size; a checkpoint fills it."""
    return nn.Linear(
        inputs or linear.in_features,
        outputs or linear.out_features,
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )
