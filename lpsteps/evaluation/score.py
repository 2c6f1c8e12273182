"""The file that an evaluation writes for each benchmark: one number with all that it rests on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.artifacts import write_json


class Samples(BaseModel):
    """The parts that the value is the mean of.

    Attributes:
        ids: Row of each sample in its file.
        values: 0 or 1 per question (between them for metrics that are shares), or the mean loss of
            a window in nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[int, ...]
    values: tuple[int | float, ...]


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
    value: float = Field(allow_inf_nan=False)
    unit: Literal["perplexity", "percent"]
    stderr: float | None = Field(allow_inf_nan=False)
    n: int = Field(ge=1)
    limited: bool
    total: int
    settings: dict[str, Any]
    samples: Samples

    @model_validator(mode="after")
    def _check_samples(self) -> Score:
        counts = (len(self.samples.ids), len(self.samples.values))
        if counts != (self.n, self.n):
            raise ValueError(f"samples: {counts[0]} ids and {counts[1]} values: n is {self.n}")
        if self.n > self.total:
            raise ValueError(f"n: {self.n}: more than `total`, {self.total}")
        if self.unit != "perplexity":
            return self
        if self.value <= 0 or abs(math.log(self.value) - self.log_perplexity) > 1e-9:
            raise ValueError(
                f"value: {self.value}: its log is not the mean of the samples, "
                f"{self.log_perplexity}"
            )
        return self

    @property
    def log_perplexity(self) -> float:
        """Mean over the windows of their losses, in nats; only of a perplexity."""
        return math.fsum(self.samples.values) / len(self.samples.values)


def write_score(path: Path, score: Score) -> None:
    """Write a score as JSON."""
    write_json(path, score.model_dump(mode="json", by_alias=True))
