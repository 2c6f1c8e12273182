"""The file that an evaluation writes for each benchmark: one number with all that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import write_json


class Samples(BaseModel):
    """The parts that the value is the mean of.

    Attributes:
        ids: Row of each sample in its file.
        values: 0 or 1 per question, or the mean loss of a window in nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: Sequence[int]
    values: Sequence[int | float]


class Score(BaseModel):
    """One score.

    Attributes:
        model: Name of the model.
        variant: Lineage of the variant.
        benchmark: Name of the benchmark.
        protocol: How it was scored.
        metric: Name of the metric.
        value: The metric, in `unit`.
        unit: Percent for accuracies.
        stderr: Standard error of `value`; None when a single sample gives none.
        n: Number of samples.
        limited: Whether there are more samples than were scored.
        total: Samples in the whole split.
        settings: What else the value depends on, such as dtype, shots and versions.
        samples: The parts of the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    version: Literal[1] = Field(default=1, alias="schema")
    model: str
    variant: str
    benchmark: str
    protocol: Literal["perplexity", "harness"]
    metric: str
    value: float
    unit: Literal["perplexity", "percent"]
    stderr: float | None
    n: int
    limited: bool
    total: int
    settings: Mapping[str, Any]
    samples: Samples


def write_score(path: Path, score: Score) -> None:
    """Write a score as JSON."""
    write_json(path, score.model_dump(mode="json", by_alias=True))
