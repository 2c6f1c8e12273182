"""What a perplexity depends on, apart from model and data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class PerplexitySettings(BaseModel):
    """Running text in windows of equal length, scored by perplexity.

    Attributes:
        corpus: Entry of the data config that gives the text.
        split: Split of the corpus that is scored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["perplexity"]
    corpus: str
    split: str
    metric: Literal["perplexity"]
    unit: Literal["perplexity"]
