"""Build every table and figure: all of them as JSON, each one as CSV."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lpsteps.artifacts import flush_to_disk, write_json
from lpsteps.errors import LpstepsError
from lpsteps.program import StepRun, run_step
from lpsteps.provenance import Lineage
from lpsteps.report.figure_data import figure_csv
from lpsteps.report.table_csv import table_csv
from lpsteps.report.tables import derive_tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see ``--help``."""
    return run_step("lpsteps.steps.build_tables", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    # `@FILE` stands for the lines of a file: for large profiles a command line is too short.
    parser.fromfile_prefix_chars = "@"
    parser.add_argument(
        "--inputs",
        type=Path,
        nargs="*",
        required=True,
        help="all results, definitions and printed values that the report is made from",
    )
    parser.add_argument("--tables-json", type=Path, required=True, help="output: all cells")
    parser.add_argument(
        "--csv", type=Path, nargs="*", default=[], help="outputs: <table>.csv, one per definition"
    )
    parser.add_argument(
        "--figures-csv", type=Path, nargs="*", default=[], help="outputs: <figure>.csv, likewise"
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    if not arguments.inputs:
        raise LpstepsError(
            "--inputs: none, so the page would be empty; name a table or a figure in the profile"
        )
    # What does not verify is left out of the tables, with the reason in its cells.
    inputs = [step.read(path, as_recorded=False) for path in arguments.inputs]
    payload = derive_tables(step.spec, inputs, Lineage())
    exports = (
        ("csv", arguments.csv, "tables", table_csv),
        ("figures-csv", arguments.figures_csv, "figures", figure_csv),
    )
    for option, paths, kind, _ in exports:
        for path in paths:
            if path.stem not in {entry["id"] for entry in payload[kind]}:
                raise LpstepsError(f"--{option}: {path}: no definition of '{path.stem}' was given")
    write_json(step.write(arguments.tables_json), payload)
    for _, paths, _, export in exports:
        for path in paths:
            target = step.write(path)
            target.write_text(export(payload, path.stem), encoding="utf-8")
            flush_to_disk(target)
    counts = payload["run"]["counts"]
    step.note("cells", counts)
    step.logger.info("cells: %s", counts)


if __name__ == "__main__":
    raise SystemExit(main())
