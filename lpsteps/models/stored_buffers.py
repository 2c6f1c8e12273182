"""Tensors of old checkpoints that models compute anew: rotary frequencies, masks of attention."""

from __future__ import annotations

import re

_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\b(attn|attention)\.(masked_)?bias)$")


def is_buffer(name: str) -> bool:
    """Return whether a tensor of a checkpoint is no parameter, by its name."""
    return _BUFFERS.search(name) is not None
