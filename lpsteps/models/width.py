"""Cutting attention heads and MLP channels out of a model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.width_pruning import LayerWidth, TensorShapes, WidthPruning

# A head is a block of rows where it is written to and of columns where it is read; so is a channel.
_HEAD_AXES = {
    "self_attn.q_proj": 0,
    "self_attn.k_proj": 0,
    "self_attn.v_proj": 0,
    "self_attn.o_proj": 1,
}
_CHANNEL_AXES = {"mlp.gate_proj": 0, "mlp.up_proj": 0, "mlp.down_proj": 1}

Structure = Mapping[str, tuple[int, Sequence[int]]]
"""Parts of a layer that can only leave together: linear module -> axis of its weight, indices."""


@dataclass(frozen=True, eq=False)
class PrunableLayer:
    """The heads and channels of one decoder layer.

    Attributes:
        modules: The linear modules that share them, by their names in the layer.
        head_size: Rows of one head.
        queries: Query heads that share one key-value head.
        heads: Key-value heads.
        channels: Channels between the MLP's matrices.
    """

    modules: Mapping[str, nn.Linear]
    head_size: int
    queries: int
    heads: int
    channels: int

    def heads_structure(self, heads: Iterable[int]) -> Structure:
        """Return what belongs to key-value heads and to the query heads that share them."""
        numbers = list(heads)
        own = _blocks(numbers, self.head_size)
        sharing = _blocks(numbers, self.head_size * self.queries)
        return {
            name: (axis, own if name.endswith(("k_proj", "v_proj")) else sharing)
            for name, axis in _HEAD_AXES.items()
        }

    def channels_structure(self, channels: Iterable[int]) -> Structure:
        """Return what belongs to channels of the MLP."""
        numbers = list(channels)
        return {name: (axis, numbers) for name, axis in _CHANNEL_AXES.items()}

    def parameters_of(self, structure: Structure) -> int:
        """Return the number of weights and biases of a structure."""
        count = 0
        for name, (axis, indices) in structure.items():
            module = self.modules[name]
            has_bias = axis == 0 and module.bias is not None
            count += len(indices) * (module.weight.shape[1 - axis] + has_bias)
        return count


def _blocks(numbers: Iterable[int], size: int) -> list[int]:
    return [index for number in numbers for index in range(number * size, (number + 1) * size)]


def prunable_layer(model: PreTrainedModel, layer: int) -> PrunableLayer:
    """Return the heads and channels of a decoder layer.

    Raises:
        LpstepsError: The family is unknown, or its layers do not keep queries, keys, values and the
            two sides of the MLP's gate in matrices of their own.
    """
    modules = dict(decoder_of(model).layers[layer].named_modules())
    names = [*_HEAD_AXES, *_CHANNEL_AXES]
    absent = [name for name in names if not isinstance(modules.get(name), nn.Linear)]
    if absent:
        raise LpstepsError(
            f"model_type: {model.config.model_type}: its layers have no {absent[0]}; heads and "
            "channels can be cut where q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and "
            "down_proj are matrices of their own (LLaMA, Mistral, Qwen2, Qwen3, Gemma 2 and 3)"
        )
    linear = {name: cast(nn.Linear, modules[name]) for name in names}
    head_size = int(cast(int, modules["self_attn"].head_dim))
    heads = linear["self_attn.k_proj"].out_features // head_size
    return PrunableLayer(
        modules=linear,
        head_size=head_size,
        queries=linear["self_attn.q_proj"].out_features // (heads * head_size),
        heads=heads,
        channels=linear["mlp.gate_proj"].out_features,
    )


def _cuts(model: PreTrainedModel, layer: int, width: LayerWidth) -> tuple[PrunableLayer, Structure]:
    """Return a layer and what stays of its modules."""
    prunable = prunable_layer(model, layer)
    for what, kept, count in (
        ("heads", width.heads, prunable.heads),
        ("channels", width.channels, prunable.channels),
    ):
        if kept[-1] >= count:
            raise LpstepsError(f"layers.{layer}.{what}: {kept[-1]}: the model has {count} of them")
    stays = {
        **prunable.heads_structure(width.heads),
        **prunable.channels_structure(width.channels),
    }
    return prunable, stays


def width_pruning(model: PreTrainedModel, layers: Mapping[int, LayerWidth]) -> WidthPruning:
    """Return a pruning with the shapes that it gives the tensors of a model.

    Args:
        model: The dense model; it is not changed.
        layers: What stays of each pruned layer.

    Raises:
        LpstepsError: A layer, head or channel does not exist, or the family cannot be pruned.
    """
    n_layers = len(decoder_of(model).layers)
    shapes: dict[str, TensorShapes] = {}
    for layer, width in layers.items():
        if layer >= n_layers:
            raise LpstepsError(f"layers: {layer}: the model has {n_layers} decoder layers")
        prunable, stays = _cuts(model, layer, width)
        for name, (axis, kept) in stays.items():
            module = prunable.modules[name]
            dense = list(module.weight.shape)
            pruned = [len(kept) if at == axis else size for at, size in enumerate(dense)]
            prefix = f"layers.{layer}.{name}"
            shapes[f"{prefix}.weight"] = TensorShapes(dense=dense, pruned=pruned)
            if axis == 0 and module.bias is not None:
                shapes[f"{prefix}.bias"] = TensorShapes(dense=dense[:1], pruned=pruned[:1])
    return WidthPruning(layers, shapes)


def apply_width(model: PreTrainedModel, pruning: WidthPruning) -> None:
    """Cut heads and channels out of `model`, in place.

    Attention finds the number of its heads in the shapes of its matrices, and since whole groups
    leave, as many query heads share a key-value head as before. So the model runs and generates
    without further changes; its config still has the dense shapes.

    Args:
        model: The dense model that the pruning was made for.
        pruning: What stays.

    Raises:
        LpstepsError: The pruning does not belong to the model, which is then untouched.
    """
    found = width_pruning(model, pruning.layers).shapes
    for name in sorted(found.keys() | pruning.shapes.keys()):
        if found.get(name) != pruning.shapes.get(name):
            raise LpstepsError(
                f"shapes: {name}: {_shown(pruning.shapes.get(name))}: "
                f"this model and what stays of it give {_shown(found.get(name))}"
            )
    for layer, width in pruning.layers.items():
        prunable, stays = _cuts(model, layer, width)
        for name, (axis, kept) in stays.items():
            module = prunable.modules[name]
            indices = torch.tensor(kept, device=module.weight.device)
            module.weight = _sliced(module.weight, axis, indices)
            if axis == 0 and module.bias is not None:
                module.bias = _sliced(module.bias, 0, indices)
            module.out_features, module.in_features = module.weight.shape


def _sliced(parameter: torch.Tensor, axis: int, indices: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(axis, indices), requires_grad=False)


def _shown(shapes: TensorShapes | None) -> str:
    return "not cut" if shapes is None else f"{shapes.dense} to {shapes.pruned}"
