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

from lpsteps.evaluation.names import FolderPath, Name


class HarnessSettings(BaseModel):
    """Multiple-choice questions, scored through lm-evaluation-harness.

    A benchmark is one task of the harness, or several whose documents are pooled: every document
    counts the same, whichever task it belongs to.

    Attributes:
        protocol: How the benchmark is scored.
        task: Name of the task in the harness; None for several.
        tasks: Names of several tasks, and for each the value of `task_column` in its rows.
        task_column: Column of the dataset that says which of `tasks` a row belongs to.
        task_folder: Folder of the definitions below the harness's `tasks/`; named after the task
            unless stated.
        dataset: Entry of the data config that gives the documents.
        split: Split of the dataset that is scored.
        metric: The harness's metric that the tables show.
        shots: Solved examples in front of each question.
        fewshot_split: Split of the dataset that gives them, not the same as `split`.
        total: Documents in the whole split.
        unit: Unit of the scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["harness"]
    task: str | None = None
    tasks: dict[str, str] = Field(default={})
    task_column: str | None = Field(default=None, validate_default=True)
    task_folder: FolderPath = Field(default="", validate_default=True)
    dataset: Name
    split: Name
    metric: Literal["acc", "acc_norm"]
    shots: int = Field(ge=0)
    fewshot_split: Name | None = Field(default=None, validate_default=True)
    total: int = Field(gt=0)
    unit: Literal["percent"]

    @model_validator(mode="before")
    @classmethod
    def _name_the_folder_after_the_task(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("task") is not None:
            return {"task_folder": values["task"], **values}
        return values

    @field_validator("task_column")
    @classmethod
    def _tasks_divide_the_rows(cls, column: str | None, info: ValidationInfo) -> str | None:
        several = bool(info.data.get("tasks"))
        if several == (info.data.get("task") is not None):
            raise ValueError("give either `task` or `tasks` with a `task_column`")
        if several != (column is not None):
            raise ValueError("`tasks` and `task_column` need each other")
        return column

    @field_validator("task_folder", mode="before")
    @classmethod
    def _folder_is_known(cls, folder: Any) -> Any:
        if folder == "":
            raise ValueError("required with `tasks`")
        return folder

    @field_validator("fewshot_split")
    @classmethod
    def _shots_come_from_a_split(cls, split: str | None, info: ValidationInfo) -> str | None:
        if split is None and info.data.get("shots"):
            raise ValueError("required when shots is above 0")
        if split is not None and split == info.data.get("split"):
            raise ValueError(
                f"'{split}': is the split that is scored, so questions would stand among their own "
                "examples; name another one"
            )
        return split
