"""Every entry of the catalogue: exit status 1, one line that says what to do, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faults.bad_input import BadInput, provoke
from faults.catalogue import CATALOGUE, message, row

PAGE = Path(__file__).parents[2] / "docs/bad-input.md"
CASES = [case for cases in CATALOGUE.values() for case in cases]
REGENERATE = "python -m tests.faults.catalogue PROJECT docs/bad-input.md"


def test_the_catalogue_names_each_of_its_many_entries_once():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 150


def test_the_page_has_these_entries_and_no_other():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    expected = [row(case, "").rpartition(" | ")[0] for case in CASES]
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected, (
        REGENERATE
    )


def _every_third_and_the_others_slow() -> list[Any]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if index % 3 else [])
        for index, case in enumerate(CASES)
    ]


@pytest.mark.parametrize("case", _every_third_and_the_others_slow())
def test_bad_input_is_told_in_one_line_and_costs_nothing(case: BadInput, project: Path):
    ended = provoke(case, project)
    assert ended.status == 1, ended.output
    text = message(ended)
    assert text.startswith("error: ") and text.isprintable() and "Traceback" not in text
    assert str(project) not in text
    assert [part for part in case.says if part not in text] == [], text
    assert row(case, text) in PAGE.read_text(), REGENERATE
