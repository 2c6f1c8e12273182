"""The page of faults is the same wherever and whenever they are tried."""

from __future__ import annotations

from pathlib import Path

from faults.outcome import Outcome
from faults.reliability_page import INTRODUCTION, reliability_page

PAGE = Path(__file__).parents[2] / "docs/reliability.md"


def test_the_page_has_this_introduction():
    assert PAGE.read_text().startswith(INTRODUCTION), "run `make test-faults`"


def test_the_stand_in_for_the_hub_has_no_port_there():
    line = "error: fetch_model: not delivered (404 for url 'http://127.0.0.1:41234/api/models')"
    page = reliability_page([Outcome("hub answers 404", "fetch_model", "told", line)])
    assert "not delivered (404 for url 'https://hub/api/models')" in page
    assert "127.0.0.1" not in page + PAGE.read_text()


def test_a_message_is_one_piece_of_code_in_one_cell():
    line = "error: x: no such file; build it with `snakemake x | tee`"
    page = reliability_page([Outcome("input missing", "calibrate", "told", line)])
    assert (
        "| input missing | `error: x: no such file; build it with 'snakemake x \\| tee'` |" in page
    )
