from __future__ import annotations

import pytest

from lpsteps.errors import nearest

TABLES = ["figure1", "table01", "table02", "table10", "table12", "table20"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("table2", "table02"),
        ("Table2", "table02"),
        ("table012", "table12"),
        ("figure01", "figure1"),
        ("tabel10", "table10"),
    ],
)
def test_the_name_that_is_meant_comes_first(name: str, meant: str):
    listing = "(allowed: figure1, table01, table02, table10, table12, table20)"
    assert nearest(name, TABLES) == f"did you mean '{meant}'? {listing}"


def test_without_a_name_like_it_all_are_listed():
    assert nearest("unlike", TABLES[:2]) == "allowed: figure1, table01"
    assert nearest("unlike", []) == "allowed: nothing is defined"
