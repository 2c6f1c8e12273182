"""Types that all sections share: names, revisions, paths."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

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


def _in_order(entries: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(entries.items()))


Parameters = Annotated[dict[str, Any], AfterValidator(_in_order)]
"""Parameters of a method. Snakemake would take another order of them for a change."""


class Section(BaseModel):
    """Base of all config sections: read-only, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
