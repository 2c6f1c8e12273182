"""Bytes of the targets of a distillation, by the layout of each way to store them."""

from __future__ import annotations

from lpsteps.distillation.teacher_store import bytes_per_target
from lpsteps.overheads.costs import stored_target_bytes
from lpsteps.overheads.measurements import StorageFacts, StorageName

_HALF = 2
# Of an index of the released code, an int64.
_INDEX = 8


def storage_facts(
    *,
    top_k: int,
    hidden_size: int,
    vocabulary: int,
    tokens: int | None,
    store: tuple[int, int] | None = None,
) -> dict[StorageName, StorageFacts]:
    """Return what a text takes in each layout.

    LinearPatch compares float16 probabilities of K tokens with float16 hidden states and leaves
    the indices of the tokens out (arXiv 2505.24680, section 4.4); its released code stores them as
    int64.

    Args:
        top_k: Tokens kept at each position.
        hidden_size: Channels of a hidden state.
        vocabulary: Tokens that there are.
        tokens: Tokens of the text, None if not known.
        store: Bytes and tokens of a store that this run has written, if any.
    """
    each = f"{top_k} tokens a position, "
    layouts: dict[StorageName, tuple[int, str]] = {
        "targets": (
            stored_target_bytes(1, top_k, vocabulary),
            f"{each}{bytes_per_target(vocabulary):g} bytes for probability and index",
        ),
        "targets-released": (
            top_k * (_HALF + _INDEX),
            f"{each}{_HALF} bytes for a probability and {_INDEX} for an index",
        ),
        "target-values": (top_k * _HALF, f"{each}{_HALF} bytes for a probability, no index"),
        "hidden-states": (hidden_size * _HALF, f"{hidden_size} channels, {_HALF} bytes each"),
        "full-vocabulary": (vocabulary * _HALF, f"{vocabulary} tokens, {_HALF} bytes each"),
    }
    hidden, _ = layouts["hidden-states"]
    facts = {
        name: StorageFacts(
            bytes_per_token=float(size),
            bytes=None if tokens is None else size * tokens,
            times_smaller=hidden / size,
            basis=f"computed: {layout}",
        )
        for name, (size, layout) in layouts.items()
    }
    if store is not None:
        size, text = store
        facts["store"] = StorageFacts(
            bytes_per_token=size / text,
            bytes=size,
            times_smaller=hidden * text / size,
            basis="measured: the files of a store, hidden states included if it has any",
        )
    return facts
