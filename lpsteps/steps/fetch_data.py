"""Fetches a dataset: one Parquet file per split, with the columns that the Hub has.

Wherever a split comes from (an unpacked archive, a local file, the Hub), the result is the same
table, so nothing downstream knows the difference.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag

from lpsteps.artifacts import file_manifest, read_json, write_json, write_parquet
from lpsteps.data.archives import archive_members
from lpsteps.data.extract import extract, format_of
from lpsteps.data.hub import hub_file, hub_table
from lpsteps.data.specs import Revision, Spec
from lpsteps.errors import LpstepsError
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated

if TYPE_CHECKING:
    import pyarrow as pa


class ArchiveSplit(Spec):
    """A split inside the archive whose manifest is given by ``--archive``."""

    format: str = Field(description="a key of lpsteps.data.extract.EXTRACTORS")
    member: str = Field(description="name of the member, or a pattern for several")


class LocalSplit(Spec):
    """A split in a local file."""

    path: Path = Field(description="the file")
    format: str | None = Field(default=None, description="its format, told by its name when null")


class HubSplit(Spec):
    """A split on the Hugging Face Hub."""

    repo: str = Field(description="repository, owner/name")
    revision: Revision = Field(description="full commit hash")
    config: str | None = Field(default=None, description="configuration of the dataset")
    split: str = Field(description="name of the split on the Hub")
    files: dict[str, str] | None = Field(default=None, description="files to read, by split")
    format: str | None = Field(
        default=None, description="of the files, told by their names if null"
    )


def _kind(split: Mapping[str, Any]) -> str:
    return "archive" if "member" in split else "hub" if "repo" in split else "local"


Split = Annotated[
    Annotated[ArchiveSplit, Tag("archive")]
    | Annotated[LocalSplit, Tag("local")]
    | Annotated[HubSplit, Tag("hub")],
    Discriminator(_kind),
]
"""Where a split comes from, told apart by `member`, `path` or `repo`."""


class DataSpec(Spec):
    """Which dataset, which columns, and where each split comes from."""

    dataset: str = Field(description="name of the dataset in config/data.yaml")
    columns: list[str] = Field(description="the columns to keep, in order", min_length=1)
    splits: dict[str, Split] = Field(description="source of each split", min_length=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's description."""
    return run_step("lpsteps.steps.fetch_data", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--archive", type=Path, help="manifest of the archive of the splits")
    parser.add_argument(
        "--manifest", type=Path, required=True, help="output; the splits are put beside it"
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(DataSpec, step.spec, "--spec")
    archive = read_json(step.read(arguments.archive)) if arguments.archive else None
    folder = step.write_folder(arguments.manifest)
    facts: dict[str, Any] = {}
    for name, source in sorted(spec.splits.items()):
        table: pa.Table
        if isinstance(source, ArchiveSplit):
            if archive is None:
                raise LpstepsError(f"splits.{name}: an archive split needs --archive")
            paths = archive_members(arguments.archive.parent, archive["files"], source.member)
            table = extract([step.read(path) for path in paths], source.format, spec.columns)
        elif isinstance(source, LocalSplit):
            if not source.path.is_file():
                raise LpstepsError(f"{source.path}: no such file; add it or correct data_root")
            format_name = source.format or format_of(source.path)
            table = extract([step.read(source.path)], format_name, spec.columns)
        elif source.files is None:
            hub = (source.repo, source.revision, source.config, source.split)
            table = hub_table(*hub, spec.columns)
        else:
            path = hub_file(source.repo, source.revision, source.files[source.split])
            format_name = source.format or format_of(path)
            table = extract([path], format_name, spec.columns)
        if table.num_rows == 0:
            raise LpstepsError(f"splits.{name}: {spec.dataset} has no rows there")
        write_parquet(folder / f"{name}.parquet", table)
        facts[name] = {"rows": table.num_rows}
        step.logger.info("%s %s: %d rows", spec.dataset, name, table.num_rows)
    manifest = {"schema": 1, "dataset": spec.dataset, "columns": spec.columns, "splits": facts}
    files = file_manifest(folder, [f"{name}.parquet" for name in spec.splits])
    write_json(folder / "manifest.json", manifest | files)


if __name__ == "__main__":
    raise SystemExit(main())
