"""Running single layers: stand-ins are called as the layer would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lpsteps.models.layers import decoder_of
from lpsteps.models.layerwise import LayerwiseModel


def test_layers_and_stand_ins_give_the_stream_of_the_whole_model(
    tiny_model: Callable[..., Any], family: str
) -> None:
    model = tiny_model(family, layers=4)
    tokens = np.random.default_rng(0).integers(3, 128, size=(2, 14))
    layerwise = LayerwiseModel(model, tokens)
    decoder = decoder_of(model)
    # Layers 1 and 3 have the same kind of attention in the families that mix two kinds.
    stand_ins = {1: decoder.layers[3]}
    hidden = layerwise.embedded
    for layer in range(layerwise.n_layers):
        hidden = layerwise.run(layer, hidden, stand_ins.get(layer))
    decoder.layers[1] = decoder.layers[3]
    with torch.no_grad():
        output = decoder.backbone(input_ids=torch.from_numpy(tokens), use_cache=False)
    torch.testing.assert_close(decoder.norm(hidden), output.last_hidden_state, rtol=1e-5, atol=1e-5)
