"""The contents of ``overheads.json``, and the names of what it compares.

Times are measurements: another run gives other numbers, so the file is the one result whose bytes
do not repeat.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

OperationName = Literal["patch", "patch-rotated", "ffn", "layer"]
"""The matrix of a patch; the same as scales between two fast rotations; the gated feed-forward
network of LLM-Streamline; a decoder layer of the dense model."""

StorageName = Literal[
    "targets", "targets-released", "target-values", "hidden-states", "full-vocabulary", "store"
]
"""The K most probable tokens as this project stores them; as the released code does; their
probabilities alone, as the paper counts; hidden states; the whole distribution; a store of this
run."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Spread(_Facts):
    """Median and quartiles of all repetitions."""

    median: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least two positive numbers."""
        low, median, high = statistics.quantiles(values, method="inclusive")
        return cls(median=median, low=low, high=high)


class Relative(_Facts):
    """An operation's numbers over those of the patch; times are compared turn by turn."""

    parameters: float = Field(gt=0)
    flops: float = Field(gt=0)
    prefill: Spread
    decode: Spread


class OperationFacts(_Facts):
    """One operation.

    Attributes:
        parameters: Weights that it has.
        flops: Floating-point operations for one token; products between tokens do not count.
        prefill_ms: Milliseconds for all windows of the batch.
        decode_ms: Milliseconds for one more token of each.
        relative: The same over those of the patch.
    """

    parameters: int = Field(ge=1)
    flops: int = Field(ge=1)
    prefill_ms: Spread
    decode_ms: Spread
    relative: Relative


class StorageFacts(_Facts):
    """One way to store what a training compares with.

    Attributes:
        bytes_per_token: Bytes for each token of text.
        bytes: Bytes for the whole text, None where its number of tokens is not known beforehand.
        times_smaller: Bytes of float16 hidden states over these.
        basis: Where the number of bytes comes from.
    """

    bytes_per_token: float = Field(gt=0)
    bytes: int | None = Field(ge=1)
    times_smaller: float = Field(gt=0)
    basis: str


class Conditions(_Facts):
    """Under what conditions the times hold.

    Attributes:
        device: ``cpu`` or ``cuda``.
        dtype: Number type of the model.
        threads: CPU threads.
        machine: Processor, cores, memory, GPU.
        libraries: Versions of torch and transformers.
        batch: Windows that run together.
        length: Tokens of a window, and of the key-value cache when one more token is decoded.
        repetitions: Turns of the prefill and of the decoding that were timed.
        layer: Number of the decoder layer.
        basis: Construction of the rotation.
    """

    device: str
    dtype: str
    threads: int = Field(ge=1)
    machine: dict[str, Any]
    libraries: dict[str, str]
    batch: int = Field(ge=1)
    length: int = Field(ge=1)
    repetitions: dict[str, int]
    layer: int = Field(ge=0)
    basis: str


class Overheads(_Facts):
    """The whole file."""

    version: Literal[1] = Field(default=1, alias="schema")
    conditions: Conditions
    operations: dict[OperationName, OperationFacts]
    storage: dict[StorageName, StorageFacts]
