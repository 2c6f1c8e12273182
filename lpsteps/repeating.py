"""The profile in the commands that the page and ``lpsteps why`` print to make a file again."""

from __future__ import annotations

DEFAULT_PROFILE = "config/config.yaml"


def profile_option(profile: str) -> str:
    """Return the end of a Snakemake command that makes it read a profile.

    Args:
        profile: As ``tables.json`` names it: a file, or several with commas between.

    Returns:
        `` --configfile FILE...``; nothing for the default, which Snakemake reads by itself.
    """
    return "" if profile == DEFAULT_PROFILE else f" --configfile {profile.replace(', ', ' ')}"
