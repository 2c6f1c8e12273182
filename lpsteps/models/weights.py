"""The weights that weight-based importance scores of decoder layers count."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lpsteps.models.layers import decoder_of


def layer_weights(model: PreTrainedModel) -> list[list[nn.Parameter]]:
    """Return, for each decoder layer, its weight matrices and norm weights, without the biases.

    These are the parameters with "weight" in their name, as in Shortened LLaMA's code.

    Raises:
        LpstepsError: The family is unknown.
    """
    return [
        [parameter for name, parameter in layer.named_parameters() if "weight" in name]
        for layer in decoder_of(model).layers
    ]
