"""How much the logits of a written model differ from those of the model that was scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lpsteps.errors import LpstepsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEQUENCES, _LENGTH = 2, 64

EXACT_TOLERANCE = 1e-5
# Folding moves a factor from the stream to the weights, which are then rounded to their dtype and
# normed with an epsilon of another relative size: lpsteps/models/folding.py.
FOLDED_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.25}


def sample_tokens(vocabulary: int, seed: int) -> torch.Tensor:
    """Return random tokens `[2, 64]` to compare models on."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, vocabulary, (_SEQUENCES, _LENGTH)))


@torch.inference_mode()
def logits_on(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return a model's logits `[sequences, length, vocabulary]`, float32 on the CPU."""
    logits: torch.Tensor = model(input_ids=tokens.to(model.device), use_cache=False).logits
    return logits.float().cpu()


def relative_deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest deviation of a logit, relative to the largest logit of its token."""
    deviation = (found - expected).abs().amax(dim=-1) / expected.abs().amax(dim=-1)
    return float(deviation.max())


def check_deviation(deviation: float, dtype: torch.dtype, *, folded: bool) -> None:
    """Check that a written model computes what the model that was scored does.

    Args:
        deviation: As :func:`relative_deviation` gives it.
        dtype: Dtype of the weights.
        folded: Whether patches were folded into the weights.

    Raises:
        LpstepsError: It does not.
    """
    tolerance = FOLDED_TOLERANCE[dtype] if folded else EXACT_TOLERANCE
    # Also when it is not a number.
    if not deviation <= tolerance:
        raise LpstepsError(
            f"the exported model's logits deviate by {deviation:.2g} from those of the model that "
            f"was scored, relative to the largest of each token; at most {tolerance:g} is allowed"
        )
