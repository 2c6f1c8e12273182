"""Build every table: all cells as JSON, each table as CSV."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lpsteps.artifacts import flush_to_disk, sha256_file, write_json
from lpsteps.errors import LpstepsError
from lpsteps.program import StepRun, run_step
from lpsteps.report.cells import build_payload
from lpsteps.report.definitions import read_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.export import table_csv
from lpsteps.report.published import read_published


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see ``--help``."""
    return run_step("lpsteps.steps.build_tables", argv, _add_arguments, _run)


def _add_arguments(parser: ArgumentParser) -> None:
    def paths(name: str, text: str) -> None:
        parser.add_argument(name, type=Path, nargs="*", default=[], metavar="PATH", help=text)

    paths("--scores", "score files, <variant folder>/scores/<benchmark>.json")
    paths("--plans", "plan.json files")
    paths("--patches", "patch manifests, <variant folder>/patch.manifest.json")
    paths("--definitions", "table definitions, in display order")
    paths("--published", "printed values of the paper")
    parser.add_argument("--tables-json", type=Path, required=True, help="output: all cells")
    paths("--csv", "outputs: <table>.csv, one per definition")


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = parse_build_spec(step.spec)
    evidence = gather_evidence(
        spec,
        [step.read(path) for path in arguments.scores],
        [step.read(path) for path in arguments.plans],
        [step.read(path) for path in arguments.patches],
    )
    definitions = [read_table(step.read(path)) for path in arguments.definitions]
    for name in sorted(spec.tables.keys() - {definition.id for definition in definitions}):
        raise LpstepsError(f"--spec: tables: '{name}': its definition was not given")
    for path in arguments.csv:
        if path.stem not in {definition.id for definition in definitions}:
            raise LpstepsError(f"--csv: {path}: no definition of '{path.stem}' was given")
    published = [cell for path in arguments.published for cell in read_published(step.read(path))]
    digests = {str(path): sha256_file(path) for path in arguments.published}
    payload = build_payload(spec, definitions, published, digests, evidence)
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
