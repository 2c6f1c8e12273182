"""All bad input, in the order of docs/bad-input.md, and that page.

The page is written from a finished project by::

    python -m tests.faults.catalogue PROJECT docs/bad-input.md
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

# As pytest has it: the helpers of the workflow tests and this package by their short names.
_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS), str(_TESTS / "workflow"), str(_TESTS.parent)]

from faults import (  # noqa: E402
    bad_artifacts,
    bad_commands,
    bad_data,
    bad_definitions,
    bad_models,
    bad_profiles,
    bad_tables,
)
from faults.bad_input import BadInput, provoke  # noqa: E402
from faults.commands import Ended  # noqa: E402
from faults.table_cells import code_cell  # noqa: E402

CATALOGUE: dict[str, list[BadInput]] = {
    "Profiles": bad_profiles.CASES,
    "Definitions of models, data and methods": bad_definitions.CASES,
    "Tables, figures, benchmarks and printed numbers": bad_tables.CASES,
    "Models": bad_models.CASES,
    "Data": bad_data.CASES,
    "Results of earlier steps": bad_artifacts.CASES,
    "Command lines": bad_commands.CASES,
}

INTRODUCTION = """# Bad input

What can be wrong with what the workflow is given, and what it says then. Every line below was
printed by the program for the broken input at its left; the tests break it again and compare, a third
of the entries in `make test` and the others in `make test-slow`. Each time the exit status is 1,
nothing else is printed, and every result that was there before is still there, byte by byte. Mistakes
in the configuration are told before any job starts, except a model folder that is not there.

A call of a program that lacks an option, or has one that does not exist, ends with exit status 2
and its usage.
"""


def message(ended: Ended) -> str:
    """The line that a command printed."""
    return ended.output.strip()


def row(case: BadInput, text: str) -> str:
    """The line of the page for an entry."""
    return f"| {code_cell(case.name)} | {code_cell(text)} |"


def page(messages: dict[str, str]) -> str:
    """The page as Markdown, from the messages by the names of the entries."""
    parts = [INTRODUCTION]
    for title, cases in CATALOGUE.items():
        parts.append(f"\n## {title}\n\n| what is wrong | what is said |\n|---|---|\n")
        parts += [f"{row(case, messages[case.name])}\n" for case in cases]
    return "".join(parts)


def main() -> int:
    """Provoke every message in a copy of a finished project, and write the page."""
    finished, target = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        shutil.copytree(finished, root, symlinks=True)
        messages = {
            case.name: message(provoke(case, root))
            for cases in CATALOGUE.values()
            for case in cases
        }
    target.write_text(page(messages), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
