"""Fetches a model as safetensors: from a folder, or from the Hub at a pinned commit."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lpsteps.artifacts import file_manifest, read_json, write_json
from lpsteps.data.checkpoints import (
    ExpectedModel,
    check_model,
    check_tokenizer_code,
    messages_about,
    take_local_model,
)
from lpsteps.data.hub import hub_model
from lpsteps.data.specs import Revision, Spec
from lpsteps.models.families import check_family, check_remote_code
from lpsteps.program import StepRun, run_step
from lpsteps.progress import elapsed
from lpsteps.validation import validated


class HubModel(Spec):
    """A model on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="repository, owner/name")
    revision: Revision = Field(description="full commit hash; docs/models.md says where it stands")


class LocalModel(Spec):
    """A model in a folder of this machine."""

    kind: Literal["local"]
    path: Path = Field(description="folder with config.json, safetensors and tokenizer files")


class ModelSpec(Spec):
    """Where the model is, and what it should turn out to be."""

    source: Annotated[HubModel | LocalModel, Field(discriminator="kind")]
    expected: ExpectedModel = Field(description="what config/models.yaml says of the model")
    trust_remote_code: bool = Field(
        default=False,
        description="take the model's Python files along, and let every later step run them",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's description."""
    return run_step("lpsteps.steps.fetch_model", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", type=Path, required=True, help="output; the model is put beside it"
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(ModelSpec, step.spec, "--spec")
    folder = step.write_folder(arguments.manifest)
    origin: dict[str, Any]
    if isinstance(spec.source, HubModel):
        hub_model(spec.source.repo, spec.source.revision, folder, spec.trust_remote_code)
        origin = spec.source.model_dump()
    else:
        take_local_model(spec.source.path, folder, spec.trust_remote_code)
        origin = {"kind": spec.source.kind}
    source = spec.source.repo if isinstance(spec.source, HubModel) else str(spec.source.path)
    with messages_about(source, folder):
        _check(folder, spec)
    manifest = {
        "schema": 1,
        "source": origin,
        "trust_remote_code": spec.trust_remote_code,
        **spec.expected.sizes(),
    }
    with elapsed("hashing the model"):
        files = file_manifest(folder, [path.name for path in folder.iterdir()])
    write_json(folder / "manifest.json", manifest | files)


def _check(folder: Path, spec: ModelSpec) -> None:
    """Check what has been fetched, before it gets its name."""
    config = read_json(folder / "config.json", remedy="restore the model's own file")
    check_family(config, "config.json")
    check_remote_code(config, "config.json", spec.trust_remote_code)
    if spec.trust_remote_code:
        check_tokenizer_code(folder)
    check_model(folder, spec.expected)


if __name__ == "__main__":
    raise SystemExit(main())
