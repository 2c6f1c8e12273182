"""From hidden states to the log-probability of given tokens, a block of positions at a time.

The output head sees 256 positions at a time, so the logits of all positions (50 to 250 thousand
numbers each) never exist together. On a CPU reading those of a block from memory takes a good part
of the time that computing them does, so they are normalised 16 positions at a time, which fit into
the cache for all but the largest vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lpsteps.models.layers import Decoder

_POSITIONS_PER_BLOCK = 256
_POSITIONS_IN_CACHE = 16


def target_log_probabilities(
    decoder: Decoder, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the log-probability of one target token per hidden state.

    Args:
        decoder: The parts of the model.
        hidden: Output of the backbone, [positions, hidden size].
        targets: Token ids, int64 [positions].

    Returns:
        Natural-log probabilities of the targets, float32 [positions].
    """
    log_probabilities = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    for block, logits in _blocks_of_logits(decoder, hidden):
        largest = logits.amax(dim=1)
        log_probabilities[block] = _normalised(logits, largest, targets[block])
    return log_probabilities


def score_targets(
    decoder: Decoder, hidden: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score one target token per hidden state.

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
    for block, logits in _blocks_of_logits(decoder, hidden):
        largest, most_probable = logits.max(dim=1)
        greedy[block] = most_probable == targets[block]
        log_probabilities[block] = _normalised(logits, largest, targets[block])
    return log_probabilities, greedy


def _blocks_of_logits(
    decoder: Decoder, hidden: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield positions and their logits, float32 [positions, vocabulary], to be used up at once."""
    for start in range(0, len(hidden), _POSITIONS_PER_BLOCK):
        logits = decoder.logits(hidden[start : start + _POSITIONS_PER_BLOCK])
        positions = _POSITIONS_IN_CACHE if logits.device.type == "cpu" else len(logits)
        first = start
        for rows in torch.split(logits, positions):
            yield slice(first, first + len(rows)), rows.float()
            first += len(rows)


def _normalised(logits: torch.Tensor, largest: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the targets, and leave the logits destroyed.

    Args:
        logits: Float32 [positions, vocabulary]; overwritten, as a copy would take as much memory.
        largest: The largest logit of each position, [positions].
        targets: Token ids, int64 [positions].
    """
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    total = logits.sub_(largest[:, None]).exp_().sum(dim=1)
    return chosen - largest - total.log()
