"""Whether a fold is right: how far it may move logits, and a check that no rounding hides.

The check is made in float32, since rounding to bfloat16 would hide an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lpsteps.export.comparison import (
    check_deviation,
    folded_tolerance,
    least_variances,
    logits_on,
    norm_epsilon,
    relative_deviation,
)
from lpsteps.models.folding import epsilon_error, fold_patches
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import PatchSet
from lpsteps.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fold_tolerance(
    model: PreTrainedModel, plan: Plan, patches: PatchSet, tokens: torch.Tensor
) -> float:
    """Return how far logits may deviate, in a model's dtype, where its patches are folded.

    Args:
        model: The pruned and patched model.
        plan: Which layers were removed.
        patches: Foldable patches of its gaps.
        tokens: Token ids ``[sequences, length]`` that the logits are compared on.
    """
    variances = least_variances(model, tokens)
    error = epsilon_error(norm_epsilon(model), variances, plan, patches)
    return folded_tolerance(model.dtype, error)


@torch.no_grad()
def check_fold(folder: Path, plan: Plan, patches: PatchSet, tokens: torch.Tensor) -> None:
    """Check that folding patches into a model leaves its logits as they are.

    The model is loaded in float32 twice, one after the other, on the CPU.

    Args:
        folder: The dense model.
        plan: Which layers are removed.
        patches: Foldable patches of its gaps.
        tokens: Token ids ``[sequences, length]`` to compare the logits on.

    Raises:
        LpstepsError: They differ by more than float32 explains.
    """
    device = torch.device("cpu")
    patched = load_model(folder, torch.float32, device=device)
    apply_plan(patched, plan, patches)
    expected = logits_on(patched, tokens)
    tolerance = fold_tolerance(patched, plan, patches, tokens)
    # One copy of the weights at a time.
    del patched
    folded = load_model(folder, torch.float32, device=device)
    fold_patches(folded, plan, patches)
    deviation = relative_deviation(logits_on(folded, tokens), expected)
    check_deviation(deviation, tolerance, "folded in float32, the model")
