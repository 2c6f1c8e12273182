"""Prune&Comp: remove the layer of least influence, rescale the stream, and look again.

In every round the block influence ``BI_l = 1 - E[cos(X_l, X_{l+1})]`` of each remaining layer is
measured in the current model, and the layer with the smallest goes; of equal ones the lowest. In
its place the stream is multiplied by ``alpha_l = E[mean_k (mean_t |X_{l+1, k}| / mean_t |X_{l,
k}|)]``, measured in the current model, too: t counts the tokens and k the channels of a sample, E
is the mean over samples.

From the released code are the order (influences of the compensated model, one layer per round), the
mean of ratios, all tokens counted, and ties. Its scalar is folded into the embedding and the output
projections in front of the cut; here it stays a factor at the cut, which is the same function up to
the epsilon of the norms, also for tied embeddings and for families that normalise the projections'
outputs. The code measures influences on 128 windows and scalars on 256, in float16, and fails when
the last layer is chosen; here one pass over the same windows measures both, layers compute in the
dtype of the model, what they read and return is compared in float32, and the last layer can go like
any other.

Later repairs get the chosen layers alone: :mod:`lpsteps.recovery.prune_and_comp` measures its
scalars in the dense model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from lpsteps.calibration_text import TextParams, text_to_use
from lpsteps.progress import track
from lpsteps.recovery.base import RatioParams, magnitude_ratios
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Exemptions, Kind, Ranking, ranked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TITLE: Final = "Prune&Comp (iterative block influence)"
PAPER: Final = "https://arxiv.org/abs/2507.18212"
KIND: Final[Kind] = "sequence"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(TextParams, Exemptions):
    """Parameters of Prune&Comp, which itself exempts no layer; exemptions count dense layers."""


def influence_and_scale(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Return what a layer does to the stream: its block influence and its scale alpha.

    Args:
        before: What the layer reads, ``[windows, length, hidden_size]``.
        after: What it returns, of the same shape.
    """
    import torch

    before, after = before.float(), after.float()
    cosines = torch.nn.functional.cosine_similarity(before, after, dim=2)
    source, target = (
        stream.abs().mean(dim=1, dtype=torch.float64).cpu().numpy() for stream in (before, after)
    )
    ratios = magnitude_ratios(source, target, RatioParams())
    return 1.0 - float(cosines.mean(dtype=torch.float64)), float(ratios.mean())


def rank_by_influence(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], rounds: int, params: Params
) -> Ranking:
    """Run Prune&Comp's rounds on a model in memory.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids ``[windows, length]``; the first ones are used, as ``params`` says.
        rounds: Number of layers to give up.
        params: Parameters of Prune&Comp.

    Returns:
        A ``sequence`` ranking.

    Raises:
        LpstepsError: There is not enough text, a round has no layer left that it may take, or the
            family of the model is unknown.
    """
    from lpsteps.models.layerwise import LayerwiseModel

    layerwise = LayerwiseModel(model, text_to_use(windows, params))
    alive = list(range(layerwise.n_layers))
    # Factor of the stream in front of each layer: the scales of the layers that went there.
    factors = [1.0] * (layerwise.n_layers + 1)
    candidates: list[Candidate] = []
    for number in track(range(1, rounds + 1), "Prune&Comp", total=rounds):
        influences: dict[int, float] = {}
        scales: dict[int, float] = {}
        hidden = layerwise.embedded
        for layer in alive:
            before = hidden * factors[layer]
            hidden = layerwise.run(layer, before)
            influences[layer], scales[layer] = influence_and_scale(before, hidden)
        competing = ranked(
            Candidate(
                (layer,),
                influences[layer],
                eligible=params.allow(layer, layer + 1, layerwise.n_layers),
                round=number,
            )
            for layer in alive
        )
        candidates += competing
        winners = [row.layers[0] for row in competing if row.rank == 1]
        if not winners:
            raise params.none_left(rounds, number)
        (gone,) = winners
        behind = alive.index(gone) + 1
        after = alive[behind] if behind < len(alive) else layerwise.n_layers
        factors[after] *= factors[gone] * scales[gone]
        alive.remove(gone)
    return Ranking(KIND, tuple(candidates))


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and rank its layers, as many rounds as the largest wanted plan needs."""
    source = context.needed_model()
    return rank_by_influence(source.load(), source.windows, max(context.counts), params)
