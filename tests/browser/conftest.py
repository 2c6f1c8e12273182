"""The browser, and the page of the made-up run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report_example as example

sys.path.insert(0, str(Path(__file__).parent))

from browsing import ARGUMENTS, CHROMIUM, Browser, templates

from lpsteps.artifacts import sha256_file
from lpsteps.report.page import render_page
from lpsteps.steps.build_tables import main as build_tables


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
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tables.json` of the made-up run."""
    folder = tmp_path_factory.mktemp("run")
    example.copy_reports(folder)
    arguments = example.build_arguments(example.write_run(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert build_tables([*arguments, "--spec", json.dumps(example.spec())]) == 0
    return folder / "out/tables.json"


@pytest.fixture(scope="session")
def page(tables: Path) -> str:
    return render_page(json.loads(tables.read_text()), sha256_file(tables), templates())


@pytest.fixture(scope="session")
def cells(tables: Path) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in json.loads(tables.read_text())["cells"]}
