"""Types shared by the settings of the data steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 as 64 lower-case hexadecimal digits."""

Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
"""A commit hash of a repository on the Hugging Face Hub; a branch can move, so none is accepted."""

MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".model", ".jinja", ".txt", ".py"})
"""Files that belong to a model in a folder; Python files are only taken where they may run."""


class Spec(BaseModel):
    """Base of a step's settings: unknown keys are errors, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
