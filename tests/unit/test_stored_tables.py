"""A ``tables.json`` that is not one, or another version's, is told in one line by all that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from minimal_tables import minimal_tables

from lpsteps import cli
from lpsteps.artifacts import write_json
from lpsteps.audit import audit
from lpsteps.errors import LpstepsError
from lpsteps.report.stored_tables import read_tables
from lpsteps.steps.render_report import main as render_report

PAGE = Path("reports/tables.html")
TABLES = PAGE.with_suffix(".json")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PAGE.parent.mkdir()
    PAGE.write_text("<html>")


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def remove(tables: dict[str, Any]) -> None:
        place: Any = tables
        for key in keys[:-1]:
            place = place[int(key) if key.isdigit() else key]
        del place[keys[-1]]

    return remove


def test_whole_tables_are_read_as_they_are() -> None:
    write_json(TABLES, minimal_tables(cells=("a/b",)))
    assert read_tables(TABLES) == minimal_tables(cells=("a/b",))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda t: t.clear(), "schema None, expected 5"),
        (lambda t: t.update(schema=4), "schema 4, expected 5"),
        (without("run"), "run: expected a mapping"),
        (without("run", "profile"), "run.profile: expected text"),
        (without("cells"), "cells: expected a list"),
        (lambda t: t.update(tables={}), "tables: expected a list"),
        (without("artifacts"), "artifacts: expected a mapping"),
        (lambda t: t["cells"].append("a/c"), "cells.1: expected a mapping"),
        (without("cells", "0", "id"), "cells.0.id: missing"),
        (without("cells", "0", "text"), "cells.0.text: missing"),
    ],
)
def test_a_damaged_file_is_one_line_in_every_command(
    damage: Callable[[dict[str, Any]], object],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = minimal_tables(cells=("a/b",))
    damage(tables)
    write_json(TABLES, tables)
    commands: list[Callable[[], object]] = [
        lambda: cli.why("a/b", PAGE),
        lambda: cli.markdown(PAGE),
        lambda: audit(PAGE),
        lambda: cli.export_variant(model="m", variant="dense", to=Path("new")),
    ]
    for command in commands:
        with pytest.raises(LpstepsError) as raised:
            command()
        assert str(raised.value) == f"{TABLES}: {expected}; delete it to rebuild it"
    assert render_report(["--tables", str(TABLES), "--templates", str(PAGE), "--page", "p"]) == 1
    assert f"{TABLES}: {expected}; delete it to rebuild it\n" in capsys.readouterr().err
