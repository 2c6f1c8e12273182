"""The files of a profile, and the option that names them in the commands that the page prints."""

from __future__ import annotations

from pathlib import Path

DEFAULT_PROFILE = "config/config.yaml"


def profile_files(profile: str) -> list[Path]:
    """Return the files that a profile consists of, in the order in which Snakemake reads them.

    Args:
        profile: As ``tables.json`` names it: a file, or several with commas between.
    """
    return [Path(name) for name in profile.split(", ")]


def profile_option(profile: str) -> str:
    """Return the end of a Snakemake command that makes it read a profile.

    Args:
        profile: As ``tables.json`` names it: a file, or several with commas between.

    Returns:
        `` --configfile FILE...``; nothing for the default, which Snakemake reads by itself.
    """
    return "" if profile == DEFAULT_PROFILE else f" --configfile {profile.replace(', ', ' ')}"
