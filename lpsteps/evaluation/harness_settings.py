"""What a score through lm-evaluation-harness depends on, apart from model and data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


class HarnessSettings(BaseModel):
    """Multiple-choice questions, scored through lm-evaluation-harness.

    Attributes:
        task: Name of the task in the harness.
        task_folder: Folder of its definition below the harness's `tasks/`; named after the task
            unless stated.
        dataset: Entry of the data config that gives the documents.
        split: Split of the dataset that is scored.
        metric: The harness's metric that the tables show.
        shots: Solved examples in front of each question.
        fewshot_split: Split of the dataset that gives them.
        total: Documents in the whole split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["harness"]
    task: str
    task_folder: str = ""
    dataset: str
    split: str
    metric: Literal["acc", "acc_norm"]
    shots: int = Field(ge=0)
    fewshot_split: str | None = Field(default=None, validate_default=True)
    total: int = Field(gt=0)
    unit: Literal["percent"]

    @model_validator(mode="before")
    @classmethod
    def _name_the_folder_after_the_task(cls, values: Any) -> Any:
        if isinstance(values, dict) and "task" in values:
            return {"task_folder": values["task"], **values}
        return values

    @field_validator("fewshot_split")
    @classmethod
    def _shots_come_from_a_split(cls, split: str | None, info: ValidationInfo) -> str | None:
        if split is None and info.data.get("shots"):
            raise ValueError("required when shots is above 0")
        return split
