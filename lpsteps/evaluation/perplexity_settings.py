"""What a perplexity depends on, apart from model and data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from lpsteps.evaluation.names import Name


class PerplexitySettings(BaseModel):
    """Running text in windows of equal length, scored by perplexity.

    Attributes:
        protocol: How the benchmark is scored.
        corpus: Entry of the data config that gives the text.
        split: Partition of the corpus that is scored.
        metric: What the tables show.
        unit: Unit of the scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["perplexity"]
    corpus: Name
    split: Name
    metric: Literal["perplexity"]
    unit: Literal["perplexity"]
