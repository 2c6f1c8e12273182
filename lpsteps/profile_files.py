"""The files of a profile, and the option that names them in the commands that the page prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_PROFILE = "config/config.yaml"


def profile_files(profile: str) -> list[Path]:
    """Return the files that a profile consists of, in the order in which Snakemake reads them.

    Args:
        profile: As ``tables.json`` names it: a file, or several with commas between.
    """
    return [Path(name) for name in profile.split(", ")]


def override_arguments(overrides: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that give Snakemake settings beside a profile's files.

    Args:
        overrides: Keys of the profile with their values.

    Returns:
        ``--config KEY=VALUE...``; nothing where there are none.
    """
    words = [f"{key}={_value(overrides[key])}" for key in sorted(overrides)]
    return ["--config", *words] if words else []


def _value(value: Any) -> str:
    if value is None:
        return ""
    # Text was read off a command line as it is: Snakemake drops quotes around a value.
    return str(value) if isinstance(value, str | int | float) else json.dumps(value)


def profile_option(profile: str, overrides: Mapping[str, Any] | None = None) -> str:
    """Return the end of a Snakemake command that makes it read a profile.

    Args:
        profile: As ``tables.json`` names it: a file, or several with commas between.
        overrides: The settings that were given beside it, by their keys.

    Returns:
        `` --configfile FILE... --config KEY=VALUE...``, quoted for a shell. The default profile is
        left out, as Snakemake reads it by itself.
    """
    files = [str(path) for path in profile_files(profile)]
    words = [] if profile == DEFAULT_PROFILE else ["--configfile", *files]
    return "".join(
        f" {shlex.quote(word)}" for word in [*words, *override_arguments(overrides or {})]
    )
