"""LLM-Pruner: heads and channels on whose weights the loss depends least, to first order, go.

A coupled structure is what can only leave together: a key-value head with its rows of the key and
value projections, and the rows and columns of the query and output projections of the query heads
that share it; or a channel of the MLP with its row of the two projections in front and its column
of the one behind (LLM-Pruner, section 3.1). :mod:`lpsteps.models.width` names them, and the
dependency graph of the package torch-pruning checks that nothing else depends on them. The
importance of a structure is the sum of ``|W * dL/dW|`` over all its weights, without biases
(section 3.2, to first order, of single weights, summed up). L is the mean cross-entropy over the
calibration text; the paper takes 10 samples of 128 tokens.

Pruning is block-wise: some layers at both ends stay whole, and each of the others loses the same
share of its heads and channels, the least important ones of that layer. The released scripts prune
layers 4 to 29 of 32. The share is raised until the whole model has lost the parameters of n layers.
As in the released code, the number of heads is rounded down; channels make up for that, so that the
numbers of parameters agree to within a channel. Where few key-value heads are shared by many query
heads, that may leave every head in place: of 3, a third has to go before the first one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt

from lpsteps.calibration_text import TextParams, text_to_use
from lpsteps.errors import LpstepsError
from lpsteps.progress import track
from lpsteps.selection.ranking import Exemptions
from lpsteps.width.base import WidthContext
from lpsteps.width_pruning import LayerWidth, WidthPruning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from lpsteps.models.width import Structure

TITLE: Final = "LLM-Pruner"
PAPER: Final = "https://arxiv.org/abs/2305.11627"
COUNTS_EVERY_TOKEN: Final = True


class Params(TextParams, Exemptions):
    """Parameters of LLM-Pruner; exempt layers stay whole."""

    def layers(self, n_layers: int) -> range:
        """Return the layers that are pruned, of a model of ``n_layers``."""
        return range(self.exempt_first, n_layers - self.exempt_last)


def unsuited(params: Params, n: int, n_layers: int) -> str | None:
    """Return why the layers that may be pruned cannot lose the parameters of n layers, or None."""
    inside = len(params.layers(n_layers))
    if n < inside:
        return None
    return f"of {n_layers} layers {inside} may be pruned, which leaves no room for {n}"


def share_out(
    target: int, layers: int, heads: tuple[int, int], channels: tuple[int, int]
) -> tuple[int, list[int]]:
    """Return how many heads and channels each layer loses.

    Args:
        target: Parameters that are to go.
        layers: Number of layers that are pruned.
        heads: Key-value heads of a layer, and the parameters of one with all that leaves with it.
        channels: Channels of a layer, and the parameters of one.

    Returns:
        Heads that go from each layer, and channels that go from each layer, in the layers' order.
        The channels of two layers differ by one at most, the first layers lose more.

    Raises:
        LpstepsError: A layer would lose all its channels.
    """
    heads_lost = 0
    # The largest number of heads whose share of the heads is not larger than that of the channels.
    for more in range(1, heads[0]):
        lost = more * heads[1] + channels[0] * more // heads[0] * channels[1]
        if layers * lost <= target:
            heads_lost = more
    rest = target - layers * heads_lost * heads[1]
    each, further = divmod(round(rest / channels[1]), layers)
    if each + (further > 0) >= channels[0]:
        raise LpstepsError(
            f"n: {layers} layers of {heads[0]} heads and {channels[0]} channels cannot lose "
            f"{target} parameters: remove fewer, or lower exempt_first and exempt_last"
        )
    return heads_lost, [each + (place < further) for place in range(layers)]


def without_least(importances: npt.NDArray[np.float64], count: int) -> tuple[int, ...]:
    """Return all but the ``count`` least important, ascending; of equal ones the first go."""
    return tuple(sorted(np.argsort(importances, kind="stable")[count:].tolist()))


def importances(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], layers: Sequence[int]
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return the importance of each key-value head and each channel of some layers.

    Args:
        model: The dense model, in evaluation mode. It is cast to float32.
        windows: Token ids ``[windows, length]``. Gradients add up over the windows, so memory does
            not depend on their number.
        layers: Numbers of the layers.

    Returns:
        For each layer its heads' and its channels' importances, float64.

    Raises:
        LpstepsError: The family of the model is unknown or cannot be pruned.
    """
    import torch

    from lpsteps.models.width import prunable_layer

    model.float()
    parts = [prunable_layer(model, layer) for layer in layers]
    weights = [module.weight for part in parts for module in part.modules.values()]
    for weight in weights:
        weight.requires_grad_(True)
    for window in track(windows, "Gradients", total=len(windows)):
        tokens = torch.from_numpy(window[None]).to(model.device)
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        (loss / len(windows)).backward()
    found = []
    for part in parts:
        products = {
            name: (module.weight.detach() * cast("torch.Tensor", module.weight.grad)).abs()
            for name, module in part.modules.items()
        }
        heads = [_added_up(products, part.heads_structure([head])) for head in range(part.heads)]
        channels = np.zeros(part.channels)
        for name, (axis, _) in part.channels_structure(range(part.channels)).items():
            channels += products[name].sum(dim=1 - axis, dtype=torch.float64).cpu().numpy()
        found.append((np.array(heads), channels))
    for weight in weights:
        weight.grad = None
        weight.requires_grad_(False)
    return found


def _added_up(products: dict[str, torch.Tensor], structure: Structure) -> float:
    import torch

    return sum(
        float(
            products[name]
            .index_select(axis, torch.tensor(indices, device=products[name].device))
            .sum(dtype=torch.float64)
        )
        for name, (axis, indices) in structure.items()
    )


def prune_model(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], n: int, params: Params
) -> WidthPruning:
    """Choose the heads and channels of a model in memory.

    Args:
        model: The dense model, in evaluation mode. It is cast to float32, and otherwise unchanged.
        windows: Token ids ``[windows, length]``; the first ones are used, as ``params`` says.
        n: Number of whole layers that have as many parameters as are to go.
        params: Parameters of LLM-Pruner.

    Raises:
        LpstepsError: There is not enough text, the layers that may be pruned are too few, the
            family cannot be pruned, or torch-pruning is not installed.
    """
    from lpsteps.models.coupling import check_coupling
    from lpsteps.models.layers import decoder_of
    from lpsteps.models.width import prunable_layer, width_pruning

    text = text_to_use(windows, params)
    decoder_layers = decoder_of(model).layers
    layers = params.layers(len(decoder_layers))
    reason = unsuited(params, n, len(decoder_layers))
    if reason is not None:
        raise LpstepsError(f"n: {n}: {reason}")
    check_coupling(model, layers)
    part = prunable_layer(model, layers[0])
    target = n * _parameters(decoder_layers) // len(decoder_layers)
    heads_lost, channels_lost = share_out(
        target,
        len(layers),
        (part.heads, part.parameters_of(part.heads_structure([0]))),
        (part.channels, part.parameters_of(part.channels_structure([0]))),
    )
    scores = importances(model, text, layers)
    return width_pruning(
        model,
        {
            layer: LayerWidth(without_least(heads, heads_lost), without_least(channels, lost))
            for layer, (heads, channels), lost in zip(layers, scores, channels_lost, strict=True)
        },
    )


def _parameters(modules: Iterable[torch.nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def prune(context: WidthContext, params: Params) -> WidthPruning:
    """Load the model and choose its heads and channels."""
    source = context.model
    # Weights and gradients.
    return prune_model(source.load(copies=2, in_float32=True), source.windows, context.n, params)
