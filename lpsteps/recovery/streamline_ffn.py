"""LLM-Streamline with a feed-forward network: a trained gated MLP bridges a gap.

It works beside the residual stream, ``x + MLP(x / rms(x))``, with the MLP width of the model. Its
input projections start as normal numbers of variance ``1 / hidden_size``, so that they map
normalised rows to numbers of variance 1; its output projection starts at zero, so that training
starts at the pruned model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from lpsteps.models.families import unknown_projections
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import Need, RecoveryContext
from lpsteps.streamline import StreamlineParams, imitate_gap
from lpsteps.training import LossCurve, TrainingText, training_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TITLE: Final = "LLM-Streamline (FFN)"
PAPER: Final = "https://arxiv.org/abs/2403.19135"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(StreamlineParams):
    """Parameters of the trained MLP."""

    intermediate: int | None = Field(
        default=None, ge=1, description="Width of the MLP; null for that of the model's own MLPs"
    )


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why the width of a family's MLPs is not known, or None where it is or is not asked."""
    return unknown_projections(family) if params.intermediate is None else None


def trained_mlp(
    model: PreTrainedModel,
    gap: tuple[int, int],
    text: TrainingText,
    params: Params,
    *,
    seed: int,
) -> tuple[Operation, LossCurve]:
    """Return a gated MLP that imitates the gap's layers, and how its training went.

    Args:
        model: The dense model; it does not change.
        gap: The removed layers ``(start, end)``, end exclusive.
        text: What to train on.
        params: Width, epochs, batch and learning rates.
        seed: Seed of the initial weights and of the order of the sequences.

    Raises:
        LpstepsError: The loss is not a finite number, or the width is left to the model's own MLPs
            and the family's are not known.
    """
    import numpy as np

    from lpsteps.models.layers import branch_outputs, decoder_of
    from lpsteps.models.patch import Patch

    hidden_size = model.config.get_text_config().hidden_size
    width = params.intermediate
    if width is None:
        width = branch_outputs(decoder_of(model).layers[gap[0]]).mlp.in_features
    weight = np.zeros((3, hidden_size, width))
    weight[:2] = np.random.default_rng(seed).standard_normal((2, hidden_size, width))
    weight[:2] /= np.sqrt(hidden_size)

    patch = Patch(GapPatch(*gap, (Operation("gated_mlp", weight),))).to(model.device)
    patch.requires_grad_(True)
    curve = imitate_gap(
        model, gap, list(patch.weights), lambda batch: patch(batch.source), text, params, seed=seed
    )
    return Operation("gated_mlp", patch.weights[0].detach().cpu().numpy()), curve


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Train one MLP per gap, each on the dense model's activations.

    Raises:
        LpstepsError: There is not enough text, or a loss is not finite.
    """
    source = context.needed_model()
    model = source.load()
    text = training_text(source.windows, params, bos_in_windows=context.bos_in_windows)
    gaps = []
    audit = {}
    for index, gap in enumerate(context.plan.gaps):
        operation, curve = trained_mlp(model, gap, text, params, seed=context.seed)
        gaps.append(GapPatch(*gap, (operation,)))
        audit.update(curve.audit(f"gaps.{index}"))
    return PatchSet(tuple(gaps), audit)
