"""Six models in all tables of the paper: the page stays small enough and works."""

from __future__ import annotations

import paper_example
import pytest
from browsing import Browser, templates

from lpsteps.report.page import render_page


@pytest.fixture(scope="module")
def large() -> str:
    payload = paper_example.payload()
    assert len(payload["tables"]) == 17 and len(payload["run"]["models"]) == 6
    assert payload["run"]["counts"]["measured"] > 5000
    return render_page(payload, "0" * 64, templates())


def test_it_is_smaller_than_five_megabytes(large: str) -> None:
    assert len(large.encode()) < 5_000_000


def test_what_is_far_from_the_view_is_not_laid_out(large: str, browser: Browser) -> None:
    with browser.open(large, 1280) as shown:
        before, after = shown.locator(".group").last.evaluate(
            """async (group) => {
              const cell = group.querySelector("td");
              const laidOut = () => cell.checkVisibility({ contentVisibilityAuto: true });
              const before = laidOut();
              group.scrollIntoView();
              for (let frame = 0; frame < 5; frame++) await new Promise(requestAnimationFrame);
              return [before, laidOut()];
            }"""
        )
    assert (before, after) == (False, True)


def test_it_filters_and_sorts(large: str, browser: Browser) -> None:
    with browser.open(large, 1280) as shown:
        shown.locator("#controls summary").click()
        shown.locator("#choose-model").select_option("llama-2-7b")
        assert shown.locator(".group:visible").count() == 17
        shown.locator("#find-method").fill("linearpatch")
        assert shown.locator("tr.measured:visible").count() > 17
        shown.locator("#table01-llama-2-7b th[data-column=piqa] .sort").click()
        shown.locator("#choose-form").select_option("of-dense")
        texts = shown.locator("#table01-llama-2-7b td:visible .value").all_text_contents()
        assert any(text.endswith(" %") for text in texts)
