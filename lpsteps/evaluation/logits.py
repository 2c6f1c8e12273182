"""From hidden states to the log-probability of given tokens, a block of positions at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lpsteps.models.layers import Decoder

_POSITIONS_PER_BLOCK = 256


def score_targets(
    decoder: Decoder, hidden: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score one target token per hidden state.

    The output head and the softmax see 256 positions at a time, so the float32 logits of all
    positions (50 to 250 thousand numbers each) never exist together.

    Args:
        decoder: The parts of the model.
        hidden: Output of the backbone, [positions, hidden size].
        targets: Token ids, int64 [positions].

    Returns:
        Natural-log probabilities of the targets, float32 [positions], and whether each target is
        the most probable token, bool [positions].
    """
    log_probabilities = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    greedy = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
    for start in range(0, len(targets), _POSITIONS_PER_BLOCK):
        block = slice(start, start + _POSITIONS_PER_BLOCK)
        logits = decoder.logits(hidden[block]).float()
        chosen = logits.gather(1, targets[block, None]).squeeze(1)
        log_probabilities[block] = chosen - logits.logsumexp(dim=1)
        greedy[block] = logits.argmax(dim=1) == targets[block]
    return log_probabilities, greedy
