"""What an export states about itself: `export.json` in its folder, and the source of its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import sha256_file
from lpsteps.evaluation.score import Score
from lpsteps.export.settings import ExportSettings, Form
from lpsteps.validation import validated_result

EXPORT_FILE = "export.json"


class ScoreFacts(BaseModel):
    """A score as the card shows it.

    Attributes:
        benchmark: Name of the benchmark.
        metric: Name of the metric.
        unit: Of the value.
        value: The metric.
        stderr: Its standard error; None where a single sample gives none.
        n: Samples that were scored.
        total: Samples in the whole split.
        path: The score's file.
        sha256: Hash of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    metric: str
    unit: Literal["perplexity", "percent"]
    value: float
    stderr: float | None
    n: int
    total: int
    path: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> ScoreFacts:
        """Read a score file.

        Raises:
            LpstepsError: It is missing or malformed.
        """
        score = validated_result(Score, path)
        facts = score.model_dump(include=set(cls.model_fields))
        return cls(path=str(path), sha256=sha256_file(path), **facts)


class ExportRecord(BaseModel):
    """How an export was made.

    Attributes:
        settings: What the config says of the variant.
        form: `stock`, or which model class the folder brings along.
        needs_trust: Whether loading it runs code of the folder: that class, or the model's own.
        dtype: Of the weights, as torch names it.
        n_layers: Decoder layers of the dense model.
        removed_layers: Those that were removed, in the order in which they were given up.
        restored_layers: Those of them that stay after all, with other weights.
        parameters: Parameters of the exported model, tied ones once.
        logits_deviation: Largest deviation from the model that was scored, relative to the largest
            logit of a token, on random tokens.
        scores: Of the variant.
        dense_scores: Of the dense model, on the same benchmarks.
        lineage: Every file behind the weights and the scores, by its path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    version: Literal[1] = Field(default=1, alias="schema")
    settings: ExportSettings
    form: Form
    needs_trust: bool
    dtype: str
    n_layers: int
    removed_layers: list[int]
    restored_layers: list[int]
    parameters: int
    logits_deviation: float
    scores: list[ScoreFacts]
    dense_scores: list[ScoreFacts]
    lineage: dict[str, dict[str, Any]]
