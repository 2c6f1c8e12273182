"""Derive all tables and figures from their inputs: what `build_tables` writes, an audit repeats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lpsteps.artifacts import sha256_file
from lpsteps.errors import LpstepsError
from lpsteps.provenance import Lineage
from lpsteps.report.definitions import read_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.figure_data import build_figures
from lpsteps.report.figure_definitions import read_figure
from lpsteps.report.lineage import artifact_graph
from lpsteps.report.origin import measured_with
from lpsteps.report.payload import build_payload
from lpsteps.report.published import read_published


def derive_tables(
    settings: Mapping[str, Any], inputs: Iterable[Path], lineage: Lineage
) -> dict[str, Any]:
    """Return the content of ``tables.json``.

    Args:
        settings: The spec of ``build_tables``.
        inputs: Scores (``scores/*.json``), plans (``plan.json``), patch manifests
            (``patch.manifest.json``), width prunings (``width.manifest.json``), costs
            (``overheads.json``), training curves (``training.parquet``), statistics and token-wise
            scalings for figures (other ``*.parquet``), definitions of figures (``figures/*.yaml``)
            and of tables (other ``*.yaml``) and printed values (``*.csv``), in any order.
        lineage: Verifies the measured inputs. A cell that rests on one that does not verify is
            missing, with the reason.

    Raises:
        LpstepsError: A setting, a definition or a verified input is not valid.
    """
    spec = parse_build_spec(settings)
    paths = sorted(inputs)
    measured = [path for path in paths if path.suffix in (".json", ".parquet")]
    found = {path.as_posix(): lineage.problem(path) for path in measured}
    problems = {path: problem for path, problem in found.items() if problem is not None}
    evidence = gather_evidence(spec, measured, problems)
    given = [path for path in paths if path.suffix == ".yaml"]
    definitions = [read_table(path) for path in given if path.parent.name != "figures"]
    figures = [read_figure(path) for path in given if path.parent.name == "figures"]
    # The paper's tables in their order, then our own; figures likewise.
    definitions.sort(key=lambda definition: (definition.number is None, definition.id))
    figures.sort(key=lambda figure: (figure.number is None, figure.id))
    for name in sorted(spec.tables.keys() - {definition.id for definition in definitions}):
        raise LpstepsError(f"--spec: tables: '{name}': its definition was not given")
    for name in sorted(spec.figures.keys() - {figure.id for figure in figures}):
        raise LpstepsError(f"--spec: figures: '{name}': its definition was not given")
    printed = [path for path in paths if path.suffix == ".csv"]
    published = [cell for path in printed for cell in read_published(path)]
    digests = {str(path): sha256_file(path) for path in printed}
    payload = build_payload(spec, definitions, published, digests, evidence)
    drawn = build_figures(spec, figures, {path.as_posix() for path in measured}, evidence)
    run = {**payload["run"], **measured_with(lineage, measured)}
    return {
        **payload,
        "run": run,
        "figures": drawn,
        "artifacts": artifact_graph(lineage, measured),
    }
