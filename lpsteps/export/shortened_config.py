"""Whether the config of a pruned model describes the layers that are left.

Some settings place kinds of layers by number, such as `first_k_dense_replace`: the first k layers
have no experts. Surgery leaves them as they were, which a model in memory does not mind. A
checkpoint is built from its config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.patch import Patch


def check_shortened_config(model: PreTrainedModel) -> None:
    """Check that a model made of a pruned model's config has the same layers.

    Settings of the layers are compared, and names and shapes of weights and buffers; the other
    model is made without memory for them.

    Args:
        model: A model after `apply_plan`, with or without patches.

    Raises:
        LpstepsError: Something is missing, superfluous or different.
    """
    # As it will be read: some families correct their settings then.
    config = type(model.config).from_dict(model.config.to_dict())
    _check_same(model, _layer_settings(model.config), _layer_settings(config))
    with torch.device("meta"):
        described = type(model)(config)
    _check_same(model, _shapes(model), _shapes(described))


def _check_same(
    model: PreTrainedModel, pruned: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    for name in sorted(pruned.keys() | described.keys()):
        here, there = pruned.get(name, "not there"), described.get(name, "not there")
        if here != there:
            raise LpstepsError(
                f"model_type: {model.config.model_type}: cannot be exported without the removed "
                f"layers: {name}: {here} in the pruned model, {there} in one made of its config, "
                "where a setting goes by the numbers of layers; remove others"
            )


def _layer_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the entries of all settings that have one for each layer."""
    return {
        f"{name}[{layer}]": value
        for name, values in config.to_dict().items()
        if isinstance(values, list | tuple) and len(values) == config.num_hidden_layers
        for layer, value in enumerate(values)
    }


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return the shapes of weights and buffers, without the patches, which no config describes."""
    patches = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, Patch))
    return {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.startswith(patches)
    }
