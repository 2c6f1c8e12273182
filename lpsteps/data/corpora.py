"""Corpora: running text made of documents, divided into disjoint partitions.

Two ways to divide it. Shuffled: whole documents, or groups of them, from all over the dataset
(`partition_rows`). In order: one partition after the other (`partition_span`), as the code behind
the paper divides its training text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from lpsteps.errors import LpstepsError, nearest


def partition_rows(
    groups: Sequence[str],
    lengths: Sequence[int],
    shares: Mapping[str, float],
    seed: int,
    partition: str,
) -> list[int]:
    """Choose the rows of one partition of a corpus.

    The groups are put into an order that depends only on their names and the seed (by SHA-256, so
    it is the same on every machine and with every library version) and laid along a line, each as
    long as its text. The line is cut into the partitions, taken in the order of their names; a
    group belongs to the partition in which its middle lies. Partitions are thus disjoint, no group
    is divided, and each holds its share of the text to within one group.

    Args:
        groups: Group of each row; rows of the same group are never separated.
        lengths: Length of each row's text in characters.
        shares: Share of the text per partition, positive, adding up to at most 1; what is left over
            is in no partition.
        seed: Chooses the order of the groups.
        partition: The partition that is wanted.

    Returns:
        Row numbers in ascending order, so the text keeps the order of the dataset.

    Raises:
        LpstepsError: The partition is not defined or the shares are impossible.
    """
    low, high = _ends(shares, partition)
    length_of: dict[str, int] = {}
    for group, length in zip(groups, lengths, strict=True):
        # Every row counts for at least one character, so that empty rows have a place as well.
        length_of[group] = length_of.get(group, 0) + max(length, 1)
    total = sum(length_of.values())
    start, end = total * low, total * high
    chosen: set[str] = set()
    position = 0
    for group in sorted(length_of, key=lambda group: _order_key(seed, group)):
        if start <= position + length_of[group] / 2 < end:
            chosen.add(group)
        position += length_of[group]
    return [row for row, group in enumerate(groups) if group in chosen]


def partition_span(total: int, shares: Mapping[str, float], partition: str) -> slice:
    """Return which of `total` tokens or documents in a row belong to a partition.

    The partitions follow each other in the order of their names, and each begins where the one
    before it ends; a share that is no whole number of them is rounded down.

    Raises:
        LpstepsError: The partition is not defined or the shares are impossible.
    """
    low, high = _ends(shares, partition)
    # Shares that add up to 1 may do so but for their rounding, and would lose the last token.
    return slice(math.floor(total * low + 1e-6), math.floor(total * high + 1e-6))


def _ends(shares: Mapping[str, float], partition: str) -> tuple[float, float]:
    """Return where a partition begins and ends on a line of length 1."""
    if partition not in shares:
        raise LpstepsError(f"split: {partition}: not a partition; {nearest(partition, shares)}")
    if not (min(shares.values()) > 0 and sum(shares.values()) <= 1 + 1e-9):
        raise LpstepsError(
            f"partitions: {dict(shares)}: shares must be positive and add up to at most 1"
        )
    # One number for the end of a partition and the start of the next, or rounding would part them.
    names = sorted(shares)
    ends = dict(zip(names, accumulate(shares[name] for name in names), strict=True))
    return max((ends[name] for name in shares if name < partition), default=0.0), ends[partition]


def _order_key(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{group}".encode()).digest()


@dataclass(frozen=True)
class JoinedText:
    """Documents joined into one text.

    Attributes:
        text: The documents with the separator between them.
        names: Name of each document.
        starts: Position in ``text`` of each document's first character. A separator belongs to the
            document before it.
    """

    text: str
    names: list[str]
    starts: list[int]


def join_documents(texts: Sequence[str], names: Sequence[str], separator: str) -> JoinedText:
    """Join documents with a separator, remembering where each one starts."""
    starts = []
    position = 0
    for text in texts:
        starts.append(position)
        position += len(text) + len(separator)
    return JoinedText(separator.join(texts), list(names), starts)
