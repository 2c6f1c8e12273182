"""How much the logits of a written model differ from those of the model that was scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lpsteps.errors import LpstepsError
from lpsteps.models.boundaries import watching_boundaries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEQUENCES, _LENGTH = 2, 64

EXACT_TOLERANCE = 1e-5
# Folding moves a factor from the stream to the weights, which are then rounded to their dtype. In
# float32 this moves logits by 2e-6 (SmolLM2-135M, layers 12 to 16 removed).
_FOLDED_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
# And it changes the relative size of the norms' epsilon: lpsteps.models.folding.epsilon_error. The
# layers behind make more of that: in the logits of SmolLM2-135M 26 and 48 times as much, with a
# scalar of 3 in place of layer 0 and of layers 1 and 2.
_AMPLIFICATION = 50.0
# What epsilon may do; more than that is not the model that was scored.
_LARGEST_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.25}


def sample_tokens(vocabulary: int, seed: int) -> torch.Tensor:
    """Return random tokens `[2, 64]` to compare models on."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, vocabulary, (_SEQUENCES, _LENGTH)))


@torch.inference_mode()
def logits_on(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return a model's logits `[sequences, length, vocabulary]`, float32 on the CPU."""
    logits: torch.Tensor = model(input_ids=tokens.to(model.device), use_cache=False).logits
    return logits.float().cpu()


@torch.inference_mode()
def least_variances(model: PreTrainedModel, tokens: torch.Tensor) -> list[float]:
    """Return the smallest variance of a token, over its channels, at each boundary of a model."""
    variances: list[float] = []

    def keep(_: int, hidden: torch.Tensor) -> None:
        variances.append(float(hidden.double().var(dim=-1, correction=0).min()))

    with watching_boundaries(model, keep):
        model(input_ids=tokens.to(model.device), use_cache=False)
    return variances


def norm_epsilon(model: PreTrainedModel) -> float:
    """Return the largest epsilon of a model's norms; 0 where none has one."""
    names = ("variance_epsilon", "eps")
    values = [getattr(module, name, 0.0) for module in model.modules() for name in names]
    return max(float(value) for value in values)


def relative_deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest deviation of a logit, relative to the largest logit of its token."""
    deviation = (found - expected).abs().amax(dim=-1) / expected.abs().amax(dim=-1)
    return float(deviation.max())


def folded_tolerance(dtype: torch.dtype, epsilon_error: float) -> float:
    """Return how far logits may deviate where patches were folded into the weights.

    Args:
        dtype: Dtype of the weights.
        epsilon_error: As :func:`lpsteps.models.folding.epsilon_error` gives it.
    """
    allowed = _FOLDED_TOLERANCE[dtype] + _AMPLIFICATION * epsilon_error
    return min(allowed, _LARGEST_TOLERANCE[dtype])


def check_deviation(
    deviation: float, tolerance: float = EXACT_TOLERANCE, model: str = "the exported model"
) -> None:
    """Check that a model computes what the model that was scored does.

    Args:
        deviation: As :func:`relative_deviation` gives it.
        tolerance: What is allowed.
        model: What the message calls it.

    Raises:
        LpstepsError: It does not.
    """
    # Also when it is not a number.
    if not deviation <= tolerance:
        raise LpstepsError(
            f"{model}'s logits deviate by {deviation:.2g} from those of the model that "
            f"was scored, relative to the largest of each token; at most {tolerance:.2g} is allowed"
        )
