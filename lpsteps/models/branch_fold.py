"""A linear map of an MLP's output, folded into the MLP's last weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from lpsteps.models.layers import branch_outputs, decoder_of


def folded_branch(
    model: PreTrainedModel, layer: int, transform: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the output projection of a layer's MLP with a map of its output folded in.

    Args:
        model: The dense model.
        layer: The layer.
        transform: T, applied to rows of the MLP's output, ``[hidden_size, hidden_size]``.

    Returns:
        New parameters by their names relative to the backbone: ``T' W`` in torch's layout
        ``[out, in]``, and ``T' b`` where there is a bias.
    """
    decoder = decoder_of(model)
    output = branch_outputs(decoder.layers[layer]).mlp
    (name,) = (name for name, module in decoder.backbone.named_modules() if module is output)
    return {
        f"{name}.{parameter}": transform.T @ values.double().cpu().numpy()
        for parameter, values in output.named_parameters()
    }
