"""Types shared by the settings of the data steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from lpsteps import text_patterns

Sha256 = Annotated[str, StringConstraints(pattern=text_patterns.SHA256)]
"""A SHA-256 as 64 lower-case hexadecimal digits."""

Revision = Annotated[str, StringConstraints(pattern=text_patterns.REVISION)]
"""A commit hash of a repository on the Hugging Face Hub; a branch can move, so none is accepted."""


class Spec(BaseModel):
    """Base of a step's settings: unknown keys are errors, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
