"""A real browser for the tests of the page: it opens files, and whatever goes wrong is an error."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page
from report_example import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def templates() -> dict[str, str]:
    """The page's templates by name."""
    return {path.name: path.read_text() for path in (ROOT / "reports/templates").iterdir()}


class Browser:
    """Opens pages from disk and collects errors, console messages and requests."""

    def __init__(self, chromium: Chromium, folder: Path) -> None:
        self.chromium = chromium
        self.folder = folder
        self.names = itertools.count()

    @contextmanager
    def open(
        self, html: str, width: int, colour_scheme: Any = "light", fragment: str = ""
    ) -> Iterator[Page]:
        """Show a page; afterwards it must have logged no error and asked for nothing."""
        file = self.folder / f"page{next(self.names)}.html"
        file.write_text(html, encoding="utf-8")
        context = self.chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=colour_scheme,
            reduced_motion="reduce",
        )
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: faults.append(request.url))
        page.goto(file.as_uri() + fragment)
        yield page
        context.close()
        own = (file.as_uri(), "blob:")
        assert [fault for fault in faults if not fault.startswith(own)] == []

    def evaluate(self, html: str, width: int, script: str, colour_scheme: Any = "light") -> Any:
        """Show a page, run a script in it as the body of a function, return what it returns."""
        with self.open(html, width, colour_scheme) as page:
            return page.evaluate(f"async () => {{ {script} }}")
