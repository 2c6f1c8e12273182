"""Render the tables as one HTML page that needs no other file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lpsteps.artifacts import flush_to_disk, sha256_file
from lpsteps.program import StepRun, run_step
from lpsteps.report.page import render_page
from lpsteps.report.stored_tables import read_tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see ``--help``."""
    return run_step("lpsteps.steps.render_report", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--tables", type=Path, required=True, help="tables.json")
    parser.add_argument(
        "--templates", type=Path, nargs="+", required=True, help="all files of reports/templates"
    )
    parser.add_argument("--page", type=Path, required=True, help="output: the HTML page")


def _run(step: StepRun, arguments: Namespace) -> None:
    tables = step.read(arguments.tables)
    templates = {
        path.name: step.read(path).read_text(encoding="utf-8") for path in arguments.templates
    }
    page = step.write(arguments.page)
    html = render_page(read_tables(tables), sha256_file(tables), templates)
    page.write_text(html, encoding="utf-8")
    flush_to_disk(page)


if __name__ == "__main__":
    raise SystemExit(main())
