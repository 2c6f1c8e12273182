"""The browser, and the page of the made-up run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browsing import ARGUMENTS, CHROMIUM, Browser, templates

from lpsteps.artifacts import sha256_file
from lpsteps.report.page import render_page


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield Browser(chromium, tmp_path_factory.mktemp("pages"))
        chromium.close()


@pytest.fixture(scope="session")
def page(built_tables: Path) -> str:
    payload = json.loads(built_tables.read_text())
    return render_page(payload, sha256_file(built_tables), templates())


@pytest.fixture(scope="session")
def cells(built_tables: Path) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in json.loads(built_tables.read_text())["cells"]}
