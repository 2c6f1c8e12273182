"""Types that all sections share: names, revisions, paths."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from lpsteps import text_patterns

Name = Annotated[str, StringConstraints(pattern=text_patterns.NAME)]
"""A name becomes part of a path, so it may not hold a slash or start with a dot."""


Sha256 = Annotated[str, StringConstraints(pattern=text_patterns.SHA256)]


Revision = Annotated[str, StringConstraints(pattern=text_patterns.REVISION)]


Version = Annotated[str, StringConstraints(pattern=text_patterns.VERSION)]


Wheel = Annotated[str, StringConstraints(pattern=text_patterns.WHEEL)]


Positive = Annotated[int, Field(ge=1)]


Repository = Annotated[str, StringConstraints(pattern=text_patterns.REPOSITORY)]
"""A repository on the Hugging Face hub, `owner/name`; it is also a path below `model_root`."""


GenericResource = Annotated[str, StringConstraints(pattern=text_patterns.GENERIC_RESOURCE)]
"""A generic resource of Slurm, without a number."""


def _stays_below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{path!r}: must be a relative path without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_below)]
"""A file below a folder."""


Key = TypeVar("Key", bound=str)
Value = TypeVar("Value")


def _in_order(entries: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(entries.items()))


Ordered = Annotated[dict[Key, Value], AfterValidator(_in_order)]
"""A mapping that settings of a step hold: Snakemake would take another order of it for a change."""


Parameters = Ordered[str, Any]
"""Parameters of a method."""


class Section(BaseModel):
    """Base of all config sections: read-only, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
