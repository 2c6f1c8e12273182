"""Converts a model that came in an archive to safetensors, so that every later load is fast."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from lpsteps.artifacts import file_manifest, read_json, write_json
from lpsteps.data.archives import archive_members
from lpsteps.data.checkpoints import ExpectedModel, check_model, messages_about
from lpsteps.data.specs import Spec
from lpsteps.errors import LpstepsError
from lpsteps.models.convert import convert_gguf
from lpsteps.program import StepRun, run_step
from lpsteps.progress import elapsed
from lpsteps.validation import validated


class ConversionSpec(Spec):
    """Which file of the archive, and what the model should turn out to be."""

    format: Literal["gguf"] = Field(description="format of the file")
    file: str = Field(description="name of the member in the archive")
    expected: ExpectedModel = Field(description="what config/models.yaml says of the model")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's description."""
    return run_step("lpsteps.steps.convert_model", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--archive", type=Path, required=True, help="manifest of the archive")
    parser.add_argument(
        "--manifest", type=Path, required=True, help="output; the model is put beside it"
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(ConversionSpec, step.spec, "--spec")
    archive = read_json(step.read(arguments.archive))
    members = archive_members(arguments.archive.parent, archive["files"], spec.file)
    if len(members) > 1:
        raise LpstepsError(
            f"--spec: file: {spec.file}: {len(members)} members of the archive match; name one"
        )
    [gguf] = members
    folder = step.write_folder(arguments.manifest)
    with elapsed(f"converting {gguf.name}"):
        convert_gguf(step.read(gguf), folder)
    with messages_about(str(gguf), folder):
        check_model(folder, spec.expected)
    manifest = {
        "schema": 1,
        "source": {"archive": archive["wheel"], "file": spec.file, "format": spec.format},
        **spec.expected.sizes(),
    }
    with elapsed("hashing the model"):
        files = file_manifest(folder, [path.name for path in folder.iterdir()])
    write_json(folder / "manifest.json", manifest | files)


if __name__ == "__main__":
    raise SystemExit(main())
