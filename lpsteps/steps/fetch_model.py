"""Fetches a model as safetensors: from a folder, or from the Hub at a pinned commit."""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from lpsteps.data.model_files import BOOKKEEPING
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
        with _download_folder(arguments.manifest.parent, spec.source) as download:
            hub_model(spec.source.repo, spec.source.revision, download, spec.trust_remote_code)
            with messages_about(spec.source.repo, download):
                _check(download, spec)
            files = _hashed(download, spec.trust_remote_code)
            for name in files["files"]:
                _give(download / name, folder / name)
        origin = spec.source.model_dump()
    else:
        take_local_model(spec.source.path, folder, spec.trust_remote_code)
        with messages_about(str(spec.source.path), folder):
            _check(folder, spec)
        files = _hashed(folder, spec.trust_remote_code)
        origin = {"kind": spec.source.kind}
    step.afterwards(lambda: _remove_downloads(arguments.manifest.parent))
    manifest = {
        "schema": 1,
        "source": origin,
        "trust_remote_code": spec.trust_remote_code,
        **spec.expected.sizes(),
    }
    write_json(folder / "manifest.json", manifest | files)


def _give(source: Path, target: Path) -> None:
    """Give a file another name, and let it keep its own for a run after one that fails later."""
    try:
        os.link(source, target)
    except OSError:
        # A file system without links, where there may be no room for a second copy.
        source.replace(target)


def _hashed(folder: Path, with_code: bool) -> dict[str, Any]:
    """Return the manifest of a model's files; the client's own lie in a folder and are none."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    names = [name for name in names if name not in BOOKKEEPING]
    with elapsed("hashing the model"):
        return file_manifest(folder, [name for name in names if with_code or name[-3:] != ".py"])


@contextmanager
def _download_folder(target: Path, source: HubModel) -> Iterator[Path]:
    """Give a folder beside the target which outlives a failed download, so that it can go on.

    It is of one commit alone, and stays only with files of the model in it.
    """
    commit = f"{source.repo.replace('/', '--')}@{source.revision[:12]}"
    folder = target.with_name(f"{_download_prefix(target)}{commit}")
    folder.mkdir(exist_ok=True)
    # A killed download leaves these, and no later one goes on with them.
    for path in (folder / ".cache").rglob("*.incomplete"):
        path.unlink(missing_ok=True)
    try:
        yield folder
    finally:
        # The client keeps whole files alone, and begins the others anew.
        if not any(path.is_file() for path in folder.glob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def _download_prefix(target: Path) -> str:
    # No name of a model has this sign, so that no name begins as that of another's folder.
    return f".download-{target.name}@"


def _remove_downloads(target: Path) -> None:
    """Remove what is left of downloads of a model that is there, also of other commits."""
    for path in target.parent.iterdir():
        if path.name.startswith(_download_prefix(target)):
            shutil.rmtree(path, ignore_errors=True)


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
