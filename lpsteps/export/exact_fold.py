"""Whether a fold is right: told in float32, since rounding to bfloat16 would hide an error."""

from __future__ import annotations

from pathlib import Path

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
    error = epsilon_error(norm_epsilon(patched), least_variances(patched, tokens), plan, patches)
    # One copy of the weights at a time.
    del patched
    folded = load_model(folder, torch.float32, device=device)
    fold_patches(folded, plan, patches)
    deviation = relative_deviation(logits_on(folded, tokens), expected)
    check_deviation(
        deviation, folded_tolerance(torch.float32, error), "folded in float32, the model"
    )
