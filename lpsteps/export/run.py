"""Running the workflow for a checkpoint."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpsteps.errors import LpstepsError
from lpsteps.profile_files import override_arguments


def build(
    manifest: Path,
    configfiles: Sequence[Path],
    cores: str,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Run Snakemake for a checkpoint; it does nothing where all is there and current.

    Args:
        manifest: The checkpoint's manifest.
        configfiles: The files of the profile, one at least.
        cores: A number, or `all`.
        overrides: Settings beside those of the files, by their keys.

    Raises:
        LpstepsError: The working directory is no project, or the run fails; Snakemake has said why.
    """
    if not Path("Snakefile").is_file():
        raise LpstepsError("no Snakefile here; run `lpsteps export` in the project's folder")
    profile = ["--configfile", *map(str, configfiles), *override_arguments(overrides or {})]
    arguments = ["--cores", cores, *profile, "--", str(manifest)]
    run = subprocess.run([sys.executable, "-m", "snakemake", *arguments], check=False)
    if run.returncode != 0:
        command = shlex.join(["snakemake", *arguments])
        raise LpstepsError(f"{manifest}: not built, see above; the command was `{command}`")
