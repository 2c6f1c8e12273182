"""Write the JSON schema of a profile, for editors that complete and check YAML by it."""

from __future__ import annotations

import sys
from pathlib import Path

from lpsteps.artifacts import canonical_json
from lpsteps.config import Profile


def schema_text() -> str:
    """Return the schema as it stands in ``config/schema.json``."""
    return canonical_json(Profile.model_json_schema())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema_text(), encoding="utf-8")
