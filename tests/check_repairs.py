"""Check on the finished page of `config/repairs.yaml` what the project promises of its best repair.

It closes at least 3 times LinearPatch's share of the gap in log-perplexity and 1.2 times that of least
squares, with no more parameters added than either. See `make check-repairs`.

    python -m tests.check_repairs reports/tables.json
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpsteps.errors import LpstepsError
from lpsteps.report.stored_tables import read_tables

BEST = "own-text+aware+branch-refit"
RIVALS = {"linearpatch": 3.0, "least-squares": 1.2}


def broken_promises(cells: Mapping[str, Mapping[str, Any]], section: str) -> list[str]:
    """Return what does not hold in a section, printing what was compared.

    Args:
        cells: The cells of `tables.json` by their ids.
        section: Table, model and level, as the ids begin.

    Raises:
        LpstepsError: A number is missing.
    """

    def value(row: str, column: str) -> float:
        cell = cells.get(f"{section}/{row}/{column}", {"value": None, "reason": "no such cell"})
        if cell["value"] is None:
            raise LpstepsError(f"{section}/{row}/{column}: not measured ({cell['reason']})")
        return float(cell["value"])

    broken = []
    share, added = value(BEST, "share_closed"), value(BEST, "parameters_added")
    for rival, factor in RIVALS.items():
        ratio = share / value(rival, "share_closed")
        print(f"{section}: {ratio:.2f} times the share of {rival} (at least {factor})")
        if ratio < factor:
            broken.append(f"{section}: closes {ratio:.2f} times the share of {rival}, not {factor}")
        if added > value(rival, "parameters_added"):
            broken.append(f"{section}: adds more parameters than {rival}")
    return broken


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(description="Check what is promised of the best repair.")
    parser.add_argument("tables", type=Path, help="tables.json of config/repairs.yaml")
    arguments = parser.parse_args(argv)
    try:
        cells = {cell["id"]: cell for cell in read_tables(arguments.tables)["cells"]}
        # Not the dense model's, of no removed layers.
        rows = {tuple(name.rsplit("/", 2)[:2]) for name in cells if name.startswith("repairs/")}
        sections = sorted(section for section, row in rows if row == BEST)
        if not sections:
            raise LpstepsError(f"{arguments.tables}: no table repairs; build it from its profile")
        broken = [line for section in sections for line in broken_promises(cells, section)]
    except LpstepsError as error:
        broken = [str(error)]
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
