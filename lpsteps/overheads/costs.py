"""What a patch costs at inference, counted from its manifest, and its targets on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lpsteps.distillation.teacher_store import bytes_per_target
from lpsteps.patches import OperationKind, PatchManifest

# Operations with one multiplication or addition per channel; all others are matrix products.
_PER_CHANNEL: frozenset[OperationKind] = frozenset({"scalar", "scale", "shift"})


def operation_flops(kind: OperationKind, shape: Sequence[int], hidden_size: int) -> int:
    """Return the floating-point operations of one operation for one token.

    A matrix product takes two per weight, a multiplication and an addition. A scalar, scale or
    shift takes one per channel. Norms, activations and sums of two rows, which add a few per
    channel to a low-rank or gated operation, are left out, as is usual.

    Args:
        kind: What is computed.
        shape: Shape of its weight.
        hidden_size: Channels of the residual stream.
    """
    return hidden_size if kind in _PER_CHANNEL else 2 * math.prod(shape)


def layer_flops(shapes: Sequence[Sequence[int]]) -> int:
    """Return the floating-point operations of a decoder layer's projections for one token.

    The products between tokens in its attention are left out: they depend on the context's length.

    Args:
        shapes: Shapes of the layer's parameters; those with two axes are the projections.
    """
    return sum(2 * math.prod(shape) for shape in shapes if len(shape) == 2)


def patch_flops(patch: PatchManifest, hidden_size: int) -> int:
    """Return the floating-point operations that patches add for each token.

    Args:
        patch: Their manifest.
        hidden_size: Channels of the residual stream.
    """
    patches = sum(operation_flops(kind, shape, hidden_size) for kind, shape in patch.operations)
    return patches + layer_flops(patch.restored_shapes)


def stored_target_bytes(tokens: int, top_k: int, vocabulary: int) -> int:
    """Return what the teacher's most probable tokens take on disk, without any hidden states.

    Args:
        tokens: Tokens of the text, each a position with targets.
        top_k: Outcomes kept at each position.
        vocabulary: Tokens that there are.
    """
    return tokens * math.ceil(top_k * bytes_per_target(vocabulary))
