"""Names in a benchmark file that become part of a path, so they may not lead out of a folder."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from lpsteps import text_patterns

Name = Annotated[str, StringConstraints(pattern=text_patterns.NAME)]
"""The name of a file or a folder."""

FolderPath = Annotated[str, StringConstraints(pattern=text_patterns.FOLDER_PATH)]
"""A folder below another one, by the names of the folders between them and its own."""
