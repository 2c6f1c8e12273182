"""The check of what is promised of the best repair says what does not hold."""

from __future__ import annotations

from typing import Any

import pytest

from lpsteps.errors import LpstepsError
from tests import check_repairs
from tests.check_repairs import BEST, broken_promises

SECTION = "repairs/some-model/n5"


def cells(best: float, added: float = 9.0) -> dict[str, dict[str, Any]]:
    shares = {"linearpatch": 0.1, "least-squares": 0.4, BEST: best}
    parameters = {"linearpatch": 9.0, "least-squares": 9.0, BEST: added}
    return {
        f"{SECTION}/{row}/{column}": {"value": values[row], "reason": None}
        for column, values in (("share_closed", shares), ("parameters_added", parameters))
        for row in shares
    }


def test_what_holds_is_no_fault() -> None:
    assert broken_promises(cells(0.49), SECTION) == []


def test_what_does_not_hold_is_named() -> None:
    (rival,) = broken_promises(cells(0.47), SECTION)
    assert "times the share of least-squares, not 1.2" in rival
    both = broken_promises(cells(0.29), SECTION)
    assert len(both) == 2 and "of linearpatch, not 3.0" in both[0]
    more = broken_promises(cells(0.49, added=10.0), SECTION)
    assert more == [
        f"{SECTION}: adds more parameters than {rival}"
        for rival in ("linearpatch", "least-squares")
    ]


def test_a_number_that_is_not_there_is_no_pass() -> None:
    lacking = cells(0.49)
    lacking[f"{SECTION}/{BEST}/share_closed"] = {"value": None, "reason": "altered"}
    with pytest.raises(LpstepsError, match=r"share_closed: not measured \(altered\)"):
        broken_promises(lacking, SECTION)


def test_the_dense_model_of_a_page_is_no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = {"repairs/some-model/n0/dense/share_closed": {"value": 1.0, "reason": None}}

    def status(found: dict[str, dict[str, Any]]) -> int:
        page = {"cells": [{"id": name, **cell} for name, cell in found.items()]}
        monkeypatch.setattr(check_repairs, "read_tables", lambda path: page)
        return check_repairs.main(["tables.json"])

    assert status(dense | cells(0.49)) == 0
    assert status(dense | cells(0.47)) == 1
    assert status(dense) == 1
