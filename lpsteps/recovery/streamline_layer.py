"""LLM-Streamline with a decoder layer: one trained layer does the work of all layers of a gap.

The layer starts as the first one of the gap and stays in its place, so the repaired model has the
architecture of the dense one and one layer more than the pruned one, for each gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lpsteps.errors import LpstepsError
from lpsteps.patches import PatchSet
from lpsteps.recovery.base import Need, RecoveryContext
from lpsteps.streamline import StreamlineParams, imitate_gap
from lpsteps.training import LossCurve, TrainingText, training_text

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from lpsteps.models.gap_pass import GapPass

TITLE: Final = "LLM-Streamline (layer)"
PAPER: Final = "https://arxiv.org/abs/2403.19135"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(StreamlineParams):
    """Parameters of the trained layer."""


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why a cut of ``n`` layers cannot be repaired, or None when it can."""
    return "one trained layer cannot stand in for a single layer" if n < 2 else None


def trained_layer(
    model: PreTrainedModel,
    gap: tuple[int, int],
    text: TrainingText,
    params: StreamlineParams,
    *,
    seed: int,
) -> tuple[nn.Module, LossCurve]:
    """Return a layer, float32, that imitates the gap's layers, and how its training went.

    It is trained without dropout, whatever the model's configuration says.

    Args:
        model: The dense model; it does not change.
        gap: The removed layers ``(start, end)``, end exclusive.
        text: What to train on.
        params: Epochs, batch and learning rates.
        seed: Seed of the order of the sequences.

    Raises:
        LpstepsError: The loss is not a finite number.
    """
    import copy

    from lpsteps.models.layers import decoder_of

    layer = copy.deepcopy(decoder_of(model).layers[gap[0]]).float().requires_grad_(True)

    def output(batch: GapPass) -> torch.Tensor:
        return batch.call.run(layer, batch.source)

    curve = imitate_gap(model, gap, list(layer.parameters()), output, text, params, seed=seed)
    return layer, curve


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Train one layer per gap, each on the dense model's activations.

    Raises:
        LpstepsError: A gap has one layer only, there is not enough text, or a loss is not finite.
    """
    for start, end in context.plan.gaps:
        if end - start == 1:
            raise LpstepsError(
                f"plan: gap [{start}, {end}): one trained layer cannot stand in for a single "
                "layer; choose a selection that removes windows of at least 2"
            )
    source = context.needed_model()
    model = source.load()
    text = training_text(source.windows, params, bos_in_windows=context.bos_in_windows)
    replacements = {}
    audit = {}
    for index, gap in enumerate(context.plan.gaps):
        layer, curve = trained_layer(model, gap, text, params, seed=context.seed)
        for name, parameter in layer.named_parameters():
            replacements[f"layers.{gap[0]}.{name}"] = parameter.detach().cpu().numpy()
        audit.update(curve.audit(f"gaps.{index}"))
    return PatchSet(
        audit=audit,
        replacements=replacements,
        restored=tuple(start for start, _ in context.plan.gaps),
    )
