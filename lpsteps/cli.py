"""The command `lpsteps`: audit, explain, tell what is stale, sum up times, export a checkpoint."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from lpsteps.errors import LpstepsError
from lpsteps.machine_faults import summary
from lpsteps.profile_files import DEFAULT_PROFILE, profile_files
from lpsteps.run_summary import PAGE

_SUGGESTIONS = 3

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask about, verify and take away what `snakemake` has built; start with README.md.",
)


@app.command()
def audit(
    page: Annotated[Path, typer.Argument(help="The page to verify")] = PAGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
) -> None:
    """Verify a page: every file behind it, every number in it, the code that made them."""
    from lpsteps.audit import audit as verify

    result = verify(page)
    if as_json:
        print(json.dumps(result.as_json(), indent=1, sort_keys=True))
    else:
        for problem in result.problems:
            print(f"problem: {problem}")
        verdict = "problems found" if result.problems else "everything verifies"
        print(
            f"{page}: {verdict}; checked {result.numbers} numbers, {result.files} files, "
            f"{result.bytes} bytes"
        )
    raise typer.Exit(1 if result.problems else 0)


@app.command()
def why(
    cell: Annotated[str, typer.Argument(help="Id of a cell, as the page shows it")],
    page: Annotated[Path, typer.Option(help="The page that the cell is on")] = PAGE,
) -> None:
    """Print where a number comes from, back to pinned downloads."""
    from lpsteps.audit import explain
    from lpsteps.report.stored_tables import read_tables

    stored = page.with_suffix(".json")
    tables = read_tables(stored)
    cells = {entry["id"]: entry for entry in tables["cells"]}
    if cell not in cells:
        raise LpstepsError(f"{cell}: no such cell in {page}; {_nearest_cells(cell, cells, stored)}")
    run = tables["run"]
    for line in explain(cells[cell], tables["artifacts"], run["profile"], run["overrides"]):
        print(line)


def _nearest_cells(cell: str, cells: Iterable[str], stored: Path) -> str:
    """Return the tail of a message about a cell that is not there: a page has very many others."""
    table = cell.split("/")[0]
    names = list(cells)
    close = [name for name in names if name.split("/")[0] == table] or names
    found = difflib.get_close_matches(cell, close, n=_SUGGESTIONS)
    if not found:
        return f"all ids are in {stored}"
    *others, last = [f"'{name}'" for name in found]
    named = f"{', '.join(others)} or {last}" if others else last
    return f"did you mean {named}? (all ids are in {stored})"


def _checked_profiles(configfile: list[Path] | None) -> list[Path]:
    """Return the profiles that were named.

    Raises:
        LpstepsError: One is not there.
    """
    for profile in configfile or []:
        if not profile.is_file():
            raise LpstepsError(f"--configfile: {profile}: no such file")
    return configfile or []


def _checked_settings(settings: list[str]) -> list[str]:
    """Return settings as Snakemake takes them.

    Raises:
        LpstepsError: One has no key of letters, digits and underscores, or no value.
    """
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not (equals and key.isidentifier()):
            raise LpstepsError(f"--config: '{setting}': give a setting as KEY=VALUE, as seed=1")
    return settings


@app.command()
def status(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Files or rules, by default the page", show_default=False),
    ] = None,
    configfile: Annotated[
        list[Path] | None,
        typer.Option(
            help="A profile, as for Snakemake; may be given again; by default config/config.yaml",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting beside the profile, as for Snakemake; may be given again",
            show_default=False,
        ),
    ] = None,
    every_job: Annotated[bool, typer.Option("--jobs", help="Print every job by itself")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
) -> None:
    """Print what is up to date, what would run and why, and about how long it would take."""
    from lpsteps.dry_run import plan
    from lpsteps.runtime import median_seconds
    from lpsteps.status import job_lines, lines
    from lpsteps.status import status as status_of

    named = _checked_profiles(configfile)
    asked = targets or [str(PAGE)]
    options = ["--configfile", *map(str, named)] if named else []
    options += ["--config", *_checked_settings(config)] if config else []
    # Whatever looks like an option of Snakemake is none: it could plan nothing, or do something.
    found = status_of(asked, plan([*options, "--", *asked]), median_seconds())
    if as_json:
        print(json.dumps(found.as_json(), indent=1, sort_keys=True))
        return
    for line in [*lines(found), *(job_lines(found) if every_job else [])]:
        print(line)


@app.command()
def times() -> None:
    """Print how long each rule took, as a Markdown table."""
    from lpsteps.runtime import rule_times, times_markdown

    print(times_markdown(rule_times()))


@app.command()
def markdown(
    page: Annotated[Path, typer.Argument(help="The page whose tables to print")] = PAGE,
) -> None:
    """Print the measured tables as Markdown, with the commit that they were built at."""
    from lpsteps.provenance import read_record
    from lpsteps.report.markdown import tables_markdown
    from lpsteps.report.stored_tables import read_tables

    tables = page.with_suffix(".json")
    print(tables_markdown(read_tables(tables), read_record(tables)["git"].get("commit")), end="")


@app.command()
def crate(
    page: Annotated[Path, typer.Argument(help="The page to export")] = PAGE,
    output: Annotated[
        Path | None,
        typer.Option(
            help="A .zip file or a new folder; by default <page>.crate.zip", show_default=False
        ),
    ] = None,
    with_resources: Annotated[
        bool, typer.Option("--with-resources", help="Copy models and datasets, too")
    ] = False,
) -> None:
    """Export a page, everything behind it and the workflow as a Workflow Run RO-Crate."""
    from lpsteps.crate import export

    result = export(page, output or page.with_suffix(".crate.zip"), with_resources)
    print(
        f"{result.path}: {result.files} files, {result.bytes} bytes; "
        f"{result.described} more are described only"
    )


def _profile_of_page() -> tuple[list[Path], dict[str, Any]]:
    """Return the profile that the page was built with: another one has other samples and text.

    Returns:
        Its files, and the settings that were given beside them, by their keys.

    Raises:
        LpstepsError: It is not there any more, or the page's tables cannot be read.
    """
    from lpsteps.report.stored_tables import read_tables

    tables = PAGE.with_suffix(".json")
    if not tables.is_file():
        return [Path(DEFAULT_PROFILE)], {}
    run = read_tables(tables)["run"]
    profiles = profile_files(run["profile"])
    for profile in profiles:
        if not profile.is_file():
            raise LpstepsError(
                f"{tables}: run.profile: {profile}: no such file; restore the profile of the page, "
                "or name one with --configfile"
            )
    return profiles, run["overrides"]


@app.command("export")
def export_variant(
    model: Annotated[str, typer.Option(help="Name of the model in config/models.yaml")],
    variant: Annotated[
        str,
        typer.Option(
            help="dense, SELECTION/nN/RECOVERY, WIDTH/nN, or the whole path below results/MODEL, "
            "calibration/..."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The folder to make")],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace an earlier export, and all files in the repository of --push-to-hub",
        ),
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Upload it to this repository, OWNER/NAME, too", show_default=False),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make that repository public if it is new")
    ] = False,
    configfile: Annotated[
        list[Path] | None,
        typer.Option(
            help="A profile, as for Snakemake; may be given again; by default the page's",
            show_default=False,
        ),
    ] = None,
    cores: Annotated[str, typer.Option(help="Cores for snakemake: a number, or all")] = "all",
) -> None:
    """Write a pruned model as a checkpoint that other programs load; runs what is missing."""
    from lpsteps.config import read_config
    from lpsteps.export.delivery import check_target, deliver
    from lpsteps.export.hub import check_push
    from lpsteps.export.hub import push_to_hub as push
    from lpsteps.export.planning import checkpoint_manifest
    from lpsteps.export.run import build
    from lpsteps.export.variant_names import named_variant

    named = _checked_profiles(configfile)
    profiles, overrides = (named, {}) if named else _profile_of_page()
    config = read_config(*profiles, overrides=overrides)
    manifest = Path(checkpoint_manifest(named_variant(config, model, variant)))
    check_target(to, replace=force)
    if push_to_hub is not None:
        check_push(push_to_hub, replace=force)
    build(manifest, profiles, cores, overrides)
    deliver(manifest, to, replace=force)
    print(f"{to}: exported {model}, {variant}")
    if push_to_hub is not None:
        print(push(to, push_to_hub, private=not public, replace=force))


@app.command()
def describe_model(
    model: Annotated[str, typer.Argument(help="A folder, or a repository owner/name on the Hub")],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let its tokenizer run code of its own")
    ] = False,
) -> None:
    """Print the entry of a model for config/models.yaml, told from its files."""
    from lpsteps.data.describe import describe_model as describe

    print(describe(model, trust_remote_code), end="")


def main() -> None:
    """Run the command; a mistake of the user's, or a full disk, ends in one line and status 1."""
    try:
        app()
    except LpstepsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except (OSError, MemoryError) as error:
        print(f"error: {summary(error)}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
