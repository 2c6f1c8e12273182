"""The weights that weight-based importance scores of decoder layers count."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.layers import decoder_of


def layer_weights(model: PreTrainedModel) -> list[list[nn.Parameter]]:
    """Return, for each decoder layer, its weight matrices and norm weights, without the biases.

    Shortened LLaMA's code takes the parameters with "weight" in their name. The experts of a
    mixture are parameters without it (``mlp.experts.down_proj``), so everything with two or more
    dimensions counts here as well; the biases of experts have two, but say so in their name.

    Raises:
        LpstepsError: The family is unknown.
    """
    return [
        [
            parameter
            for name, parameter in layer.named_parameters()
            if ("weight" in name or parameter.dim() >= 2) and not name.endswith("bias")
        ]
        for layer in decoder_of(model).layers
    ]
