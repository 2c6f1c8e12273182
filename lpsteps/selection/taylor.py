"""Taylor: the layer whose weights the loss depends on least, to first order, goes first.

The importance of a layer is the sum of ``|W * dL/dW|`` over all entries of its weight matrices and
norm weights (Shortened LLaMA, section 3.1); biases do not count. L is the mean cross-entropy of the
language model over the calibration text. Batches only bound the memory: the signed products add up
over them before the absolute value is taken, as in the released code, and L is the mean over all
windows however they are cut. The released code adds up the mean losses of the batches, which is
the same up to a factor when they have the same size.

The row "Taylor+" of papers is this with ``exempt_first: 4`` and ``exempt_last: 2``.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.calibration_text import TextParams, text_to_use
from lpsteps.progress import track
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Exemptions, Kind, Ranking, ranked_layers

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

TITLE: Final = "Taylor"
PAPER: Final = "https://arxiv.org/abs/2402.02834"
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(TextParams, Exemptions):
    """Parameters of the Taylor metric; the paper takes 10 windows of 128 tokens in one batch."""

    batch: int | None = Field(
        default=None,
        ge=1,
        description="Windows per backward pass, null for all; less than all need memory for the "
        "gradients of all layers",
    )


def gradient_tokens(params: Params) -> int:
    """Return the tokens of one backward pass."""
    return (params.batch or params.windows) * params.length


def importances(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], batch: int | None = None
) -> list[float]:
    """Return the first-order importance of each decoder layer.

    The products ``W * dL/dW`` of all batches add up to W times the sum of the gradients, so
    gradients accumulate as usual. In the last backward pass each is reduced to its share of the
    importance and freed at once; with a single batch, no two are held at a time.

    Args:
        model: The dense model, in evaluation mode. It is cast to float32.
        windows: Token ids ``[windows, length]``.
        batch: Windows per backward pass; all when None.

    Returns:
        One importance per layer, added up in float64.

    Raises:
        LpstepsError: The family of the model is unknown.
    """
    import torch

    from lpsteps.models.weights import layer_weights

    model.float()
    weights = layer_weights(model)
    scores = [0.0] * len(weights)

    def reduce(layer: int, weight: nn.Parameter) -> None:
        products = weight.detach() * cast("torch.Tensor", weight.grad)
        scores[layer] += float(products.abs().sum(dtype=torch.float64))
        weight.grad = None

    for weight in chain.from_iterable(weights):
        weight.requires_grad_(True)
    hooks = []
    starts = range(0, len(windows), batch or len(windows))
    for start in track(starts, "Taylor", total=len(starts)):
        if start == starts[-1]:
            hooks = [
                weight.register_post_accumulate_grad_hook(partial(reduce, layer))  # type: ignore[no-untyped-call]
                for layer, parameters in enumerate(weights)
                for weight in parameters
            ]
        tokens = torch.from_numpy(windows[start : start + starts.step]).to(model.device)
        mean_loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        (mean_loss * (len(tokens) / len(windows))).backward()
    for hook in hooks:
        hook.remove()
    model.requires_grad_(False)
    return scores


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and rank its layers by rising importance; the lowest of equal ones first."""
    source = context.needed_model()
    windows = text_to_use(source.windows, params)
    # Gradients of one batch leave as soon as they are there; those of several are added up.
    at_once = params.batch is None or params.batch >= len(windows)
    model = source.load(copies=1 if at_once else 2, in_float32=True)
    return ranked_layers(importances(model, windows, params.batch), params)
