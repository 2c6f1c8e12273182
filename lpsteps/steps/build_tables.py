"""Build every table: all cells as JSON, each table as CSV."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lpsteps.artifacts import flush_to_disk, write_json
from lpsteps.errors import LpstepsError
from lpsteps.program import StepRun, run_step
from lpsteps.provenance import Lineage
from lpsteps.report.export import table_csv
from lpsteps.report.tables import derive_tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see ``--help``."""
    return run_step("lpsteps.steps.build_tables", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--inputs",
        type=Path,
        nargs="+",
        required=True,
        help="scores, plans, patch manifests, training curves, table definitions, printed values",
    )
    parser.add_argument("--tables-json", type=Path, required=True, help="output: all cells")
    parser.add_argument(
        "--csv", type=Path, nargs="*", default=[], help="outputs: <table>.csv, one per definition"
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    inputs = [step.read(path) for path in arguments.inputs]
    payload = derive_tables(step.spec, inputs, Lineage())
    tables = {table["id"] for table in payload["tables"]}
    for path in arguments.csv:
        if path.stem not in tables:
            raise LpstepsError(f"--csv: {path}: no definition of '{path.stem}' was given")
    write_json(step.write(arguments.tables_json), payload)
    for path in arguments.csv:
        target = step.write(path)
        target.write_text(table_csv(payload, path.stem), encoding="utf-8")
        flush_to_disk(target)
    counts = payload["run"]["counts"]
    step.note("cells", counts)
    step.logger.info("cells: %s", counts)


if __name__ == "__main__":
    raise SystemExit(main())
