"""ReplaceMe by cosine distance: transform what the last MLP in front of a gap adds to the stream.

With m the MLP output of layer s - 1 and y the stream that it is added to, a gap [s, e) is bridged
by a matrix T for which the direction of ``y + m T`` comes close to that of X_e, the stream behind
the gap (arXiv 2505.02819). T starts as the identity and is trained with Adam, as in the released
code. It folds into the MLP's output projection, so the repaired model has the architecture of the
dense one and no parameter more than the pruned one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lpsteps.errors import LpstepsError
from lpsteps.models.families import fixed_projections
from lpsteps.patches import PatchSet
from lpsteps.recovery.base import Need, RecoveryContext
from lpsteps.training import (
    AdamW,
    LossCurve,
    TrainingParams,
    TrainingText,
    train_on_text,
    training_text,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TITLE: Final = "ReplaceMe (cosine)"
PAPER: Final = "https://arxiv.org/abs/2505.02819"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True


class Params(TrainingParams):
    """Parameters of ReplaceMe; the paper's step is 1024 tokens, here ``batch`` times ``length``."""

    objective: Literal["accurate", "fast"] = Field(
        default="accurate",
        description="Cosine of y + m T with X_e, or the faster one of m T with X_e - y",
    )
    epochs: int = Field(default=10, ge=1, description="Passes over the text")
    batch: int = Field(default=1, ge=1, description="Sequences per step")
    learning_rate: float = Field(default=1e-4, gt=0, description="Learning rate of Adam, constant")


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why the projections of a family cannot be transformed, or None where they can."""
    return fixed_projections(family)


def trained_transform(
    model: PreTrainedModel,
    gap: tuple[int, int],
    text: TrainingText,
    params: Params,
    *,
    seed: int,
) -> tuple[npt.NDArray[np.float64], LossCurve]:
    """Return T of one gap, float64 ``[hidden_size, hidden_size]``, and how its training went.

    Args:
        model: The dense model; it does not change.
        gap: The removed layers ``(start, end)``, end exclusive; not from layer 0.
        text: What to train on.
        params: Objective, epochs, batch and learning rate.
        seed: Seed of the order of the sequences.

    Raises:
        LpstepsError: The loss is not a finite number.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    from lpsteps.models.gap_pass import read_gap
    from lpsteps.models.layers import branch_outputs, decoder_of

    start, end = gap
    projection = branch_outputs(decoder_of(model).layers[start - 1]).mlp
    transform = torch.nn.Parameter(
        torch.eye(projection.out_features, dtype=torch.float32, device=model.device)
    )
    branch: list[torch.Tensor] = []

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        batch = read_gap(model, tokens, start, end)
        # Some families flatten the tokens of a batch in front of the projection.
        m = branch.pop().to(batch.source).reshape(batch.source.shape)
        y = batch.source - m
        if params.objective == "fast":
            cosine = cosine_similarity(m @ transform, batch.target - y, dim=-1)
        else:
            cosine = cosine_similarity(y + m @ transform, batch.target, dim=-1)
        return 1.0 - cosine.mean()

    handle = projection.register_forward_hook(lambda _, __, output: branch.append(output))
    try:
        curve = train_on_text(
            [transform],
            loss,
            text,
            params,
            AdamW(params.learning_rate, params.learning_rate),
            seed=seed,
            description=f"layers {start} to {end - 1}",
        )
    finally:
        handle.remove()
    return transform.detach().cpu().double().numpy(), curve


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Train one transform per gap, each on the dense model's activations.

    Raises:
        LpstepsError: A gap starts at layer 0, the family normalises what its MLPs add to the
            stream, there is not enough text, or a loss is not finite.
    """
    from lpsteps.models.branch_fold import folded_branch
    from lpsteps.models.layers import branch_outputs, decoder_of

    if 0 in context.plan.layers:
        raise LpstepsError(
            "plan: layer 0: no MLP lies in front of it that could be transformed; "
            "choose a selection that keeps layer 0"
        )
    source = context.needed_model()
    model = source.load()
    if branch_outputs(decoder_of(model).layers[0]).normalised:
        raise LpstepsError(
            f"model_type: {model.config.model_type}: a norm behind each MLP undoes a transform of "
            "its output; choose another recovery for this family"
        )
    text = training_text(source.windows, params, bos_in_windows=context.bos_in_windows)
    replacements = {}
    audit = {}
    for index, gap in enumerate(context.plan.gaps):
        transform, curve = trained_transform(model, gap, text, params, seed=context.seed)
        replacements.update(folded_branch(model, gap[0] - 1, transform))
        audit[f"gaps.{index}.transform"] = transform
        audit.update(curve.audit(f"gaps.{index}"))
    return PatchSet(audit=audit, replacements=replacements)
