"""The page against axe-core's rules, in both colour schemes, wide and narrow."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import Browser

CELL = "table01/smollm2-135m/n5/llm-streamline+linearpatch/arc_easy"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_axe_finds_nothing(page: str, browser: Browser, width: int, scheme: str) -> None:
    with browser.open(page, width, scheme) as shown:
        shown.locator("#controls summary").click()
        shown.locator("#summary summary").click()
        whole = Axe().run(shown)
        shown.locator(f'[data-cell="{CELL}"]').click()
        panel = Axe().run(shown, context="#panel")
    findings = [*whole.response["violations"], *panel.response["violations"]]
    assert [(found["id"], found["impact"], found["nodes"][0]["html"]) for found in findings] == []
    assert len(whole.response["passes"]) > 20 and len(panel.response["passes"]) > 10
