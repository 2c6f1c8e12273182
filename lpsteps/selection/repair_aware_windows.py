"""Choose the window by what is left after the repair, not by what its removal breaks.

The other metrics judge a model that nobody will use: the one that lacks the layers and is not
repaired. A window that changes the stream a lot, but in a way that one matrix can stand in for, is
a better choice than one that changes it little and irreparably.

For every wanted n the windows with the highest mean cosine between the streams on both sides, those
that LLM-Streamline (https://arxiv.org/abs/2403.19135) would take first, are shortlisted. Each gets
the least-squares matrix of Ghosted Layers (https://arxiv.org/abs/2605.15491, section 3), with a
ridge relative to the mean eigenvalue of A'A, fitted on the first ``windows`` windows of the
calibration text. The ``heldout`` windows behind these decide, by one of two criteria:

``perplexity``
    The score is the perplexity ``exp(mean loss per token)`` of the pruned and repaired model.
``error``
    The score is the mean over tokens of ``|A W - B|^2 / |B|^2``: the squared error of the repaired
    stream behind the window, relative to the dense one, without unit. The few tokens with massive
    activations count as much as any other. It needs no pass through the layers behind the window.

The lowest score goes; of equal ones the lowest window. Windows that are not shortlisted have no
score and are not eligible.

Peak memory beside the model's own, with ``C`` channels: while fitting, ``C ** 2`` float64 numbers
per shortlisted window and per start among them; with the criterion ``error`` then half as much per
window; the stream of one calibration window in front of every layer; with ``perplexity`` the
held-out windows, which go through a layer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.progress import track
from lpsteps.repair_text import RepairParams, split_text
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Exemptions, Kind, Ranking, ranked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lpsteps.statistics import Statistics

TITLE: Final = "Best window after repair"
PAPER: Final = ""
KIND: Final[Kind] = "window"
NEEDS: Final[frozenset[Need]] = frozenset({"statistics", "model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(RepairParams, Exemptions):
    """Parameters of the search."""

    candidates: int | None = Field(
        default=8, ge=1, description="Runs of n neighbouring layers to repair and judge; null: all"
    )
    criterion: Literal["perplexity", "error"] = Field(
        default="perplexity",
        description="What decides: the perplexity of the repaired model, or the relative squared "
        "error of its stream behind the window, a mean over tokens",
    )


def shortlist(statistics: Statistics, n: int, params: Params) -> list[tuple[int, int]]:
    """Return the windows ``(start, start + n)`` to judge, best cosine first, then lowest start."""
    cosines = statistics.cosines(n).mean(axis=0)
    allowed = [
        start
        for start in range(len(cosines))
        if params.allow(start, start + n, statistics.n_layers)
    ]
    allowed.sort(key=lambda start: -cosines[start])
    return [(start, start + n) for start in allowed[: params.candidates]]


def rank_by_repair(
    model: PreTrainedModel,
    statistics: Statistics,
    windows: npt.NDArray[np.int64],
    counts: Sequence[int],
    params: Params,
) -> Ranking:
    """Repair and judge the shortlisted windows of a model in memory.

    Args:
        model: The dense model, in evaluation mode.
        statistics: Its calibration statistics, for the shortlist.
        windows: Token ids ``[windows, length]``; the first ones are used, as ``params`` says.
        counts: Numbers of layers to remove.
        params: Parameters of the search.

    Returns:
        A ``window`` ranking of all windows.

    Raises:
        LpstepsError: There is not enough text, the family of the model is unknown, or activations
            are not finite.
    """
    from lpsteps.models.layerwise import LayerwiseModel
    from lpsteps.models.repaired_losses import bridged_errors, bridged_losses, fitted_bridges

    fit, heldout = split_text(windows, params)
    cuts = sorted(cut for n in counts for cut in shortlist(statistics, n, params))
    bridges = fitted_bridges(model, fit, cuts, params.relative_ridge, {})
    scores: dict[tuple[int, int], float]
    if params.criterion == "error":
        scores = dict(zip(cuts, bridged_errors(model, heldout, list(bridges), {}), strict=True))
    else:
        steps = track(
            bridged_losses(LayerwiseModel(model, heldout), bridges, {}), "windows", total=len(cuts)
        )
        scores = {(bridge.start, bridge.end): float(np.exp(loss)) for bridge, loss in steps}
    candidates: list[Candidate] = []
    for n in counts:
        tried = [(start, start + n) for start in range(statistics.n_layers - n + 1)]
        candidates += ranked(
            Candidate(tuple(range(*cut)), scores.get(cut), eligible=cut in scores, n=n)
            for cut in tried
        )
    return Ranking(KIND, tuple(candidates))


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Load the model, and judge the shortlisted windows of the wanted numbers of layers."""
    source = context.needed_model()
    statistics = context.needed_statistics()
    return rank_by_repair(source.load(), statistics, source.windows, context.counts, params)
