"""Remove layers one by one, each time the one whose absence can be repaired best.

SLEB (https://arxiv.org/abs/2402.09025) with the repair inside the loop. In every round each layer
that is still there is taken out in turn, together with the removed layers next to it, which form
one gap with it. The gap gets the least-squares matrix of Ghosted Layers
(https://arxiv.org/abs/2605.15491, section 3), with a ridge relative to the mean eigenvalue of A'A,
fitted on the first ``windows`` windows of the calibration text: from what enters the gap in the
model as repaired so far, to what leaves it in the dense model. So a repair also makes up for what
those in front of it have left. The matrices of the other gaps stay as they are. The ``heldout``
windows behind these decide, by one of two criteria:

``perplexity``
    The score is the perplexity ``exp(mean loss per token)`` of the pruned and repaired model.
``error``
    The score is the mean over tokens of ``|A W - B|^2 / |B|^2``, where A enters the gap in the
    model as repaired so far and B leaves it in the dense model: the relative squared error of the
    stream behind the gap, without unit. It needs no pass through the layers behind the gap.

The layer with the lowest score goes for good, with its matrix; of equal ones the lowest layer.

With ``one_shot`` the layers are scored in one round on the dense model, each alone in its gap, and
every round of the ranking repeats these scores for the layers that are left.

A round over m layers costs two passes over the windows to fit to, one of the dense model and one of
the repaired one behind its first gap; m decompositions of a matrix; and, on the held-out windows,
two such passes with ``error``, half a pass and an output head for each layer with ``perplexity``.
Peak memory beside the model's own, with ``C`` channels: while fitting, ``2 m C ** 2`` float64
numbers, and the stream of one window in front of every layer; then with ``perplexity`` the held-out
windows, which go through a layer at once, and with ``error`` a matrix for each layer and the stream
of one held-out window.

Later repairs get the chosen layers alone, not the matrices: a recovery fits its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.plan import Plan
from lpsteps.progress import track
from lpsteps.repair_text import RepairParams, split_text
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Exemptions, Kind, Ranking, ranked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lpsteps.models.repaired_losses import Bridge

TITLE: Final = "Layer by layer after repair"
PAPER: Final = ""
KIND: Final[Kind] = "sequence"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(RepairParams, Exemptions):
    """Parameters of the removal; exemptions count dense layers."""

    exempt_first: int = Field(default=1, ge=0, description="Layers at the start that must stay")
    exempt_last: int = Field(default=1, ge=0, description="Layers at the end that must stay")
    mode: Literal["greedy", "one_shot"] = Field(
        default="greedy",
        description="Whether layers are scored again after every removal, or once for all",
    )
    criterion: Literal["perplexity", "error"] = Field(
        default="perplexity",
        description="What decides: the perplexity of the repaired model, or the relative squared "
        "error of its stream behind the gap, a mean over tokens",
    )


def rank_by_repaired_removal(
    model: PreTrainedModel, windows: npt.NDArray[np.int64], rounds: int, params: Params
) -> Ranking:
    """Run the rounds on a model in memory.

    Args:
        model: The dense model, in evaluation mode.
        windows: Token ids ``[windows, length]``; the first ones are used, as ``params`` says.
        rounds: Number of layers to give up, less than the model has.
        params: Parameters of the removal.

    Returns:
        A ``sequence`` ranking; exempt layers are in it without a score.

    Raises:
        LpstepsError: There is not enough text, a round has no layer left that it may take, the
            family of the model is unknown, or activations are not finite.
    """
    from lpsteps.models.layers import decoder_of
    from lpsteps.models.layerwise import LayerwiseModel
    from lpsteps.models.repaired_losses import bridged_errors, bridged_losses, fitted_bridges

    fit, heldout = split_text(windows, params)
    n_layers = len(decoder_of(model).layers)
    judge = LayerwiseModel(model, heldout) if params.criterion == "perplexity" else None
    removed: list[int] = []
    # Of the model as repaired so far, by the first layers of their gaps.
    bridges: dict[int, Bridge] = {}
    candidates: list[Candidate] = []
    scores: dict[int, float] = {}
    for number in range(1, rounds + 1):
        alive = [layer for layer in range(n_layers) if layer not in removed]
        removable = [layer for layer in alive if params.allow(layer, layer + 1, n_layers)]
        if not removable:
            raise params.none_left(rounds, number)
        if params.mode == "greedy" or number == 1:
            gaps = [
                next(
                    gap
                    for gap in Plan.removing(n_layers, (*removed, layer)).gaps
                    if layer in range(*gap)
                )
                for layer in removable
            ]
            fitted = fitted_bridges(model, fit, gaps, params.relative_ridge, bridges)
            judged: Iterable[tuple[Bridge, float]]
            if judge is None:
                bridged = list(fitted)
                errors = bridged_errors(model, heldout, bridged, bridges)
                judged = zip(bridged, errors, strict=True)
            else:
                losses = track(
                    bridged_losses(judge, fitted, bridges),
                    f"round {number} of {rounds}",
                    total=len(gaps),
                )
                judged = ((bridge, float(np.exp(loss))) for bridge, loss in losses)
            tried = dict(zip(removable, judged, strict=True))
            scores = {layer: score for layer, (_, score) in tried.items()}
        competing = ranked(
            Candidate((layer,), scores.get(layer), eligible=layer in scores, round=number)
            for layer in alive
        )
        candidates += competing
        (winner,) = (row.layers[0] for row in competing if row.rank == 1)
        removed.append(winner)
        if params.mode == "greedy":
            bridge, _ = tried[winner]
            # Runs jump over the bridges that its gap has swallowed.
            bridges[bridge.start] = bridge
    return Ranking(KIND, tuple(candidates))


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model and rank its layers, as many rounds as the largest wanted plan needs."""
    source = context.needed_model()
    return rank_by_repaired_removal(source.load(), source.windows, max(context.counts), params)
