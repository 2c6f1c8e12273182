"""What the command says where something is not there, or this machine is in its way."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
from minimal_tables import minimal_tables

from lpsteps import cli
from lpsteps.artifacts import write_json
from lpsteps.errors import LpstepsError

PAGE = Path("reports/tables.html")
IDS = (*(f"table02/m/n{n}/shortgpt/novels" for n in range(9)), "table03/m/n1/none/copa")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PAGE.parent.mkdir()


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (
            "table02/m/n7/shortgt/novels",
            "did you mean 'table02/m/n7/shortgpt/novels', 'table02/m/n8/shortgpt/novels' or "
            "'table02/m/n6/shortgpt/novels'? (all ids are in reports/tables.json)",
        ),
        (
            "table03/m/n1/none/coppa",
            "did you mean 'table03/m/n1/none/copa'? (all ids are in reports/tables.json)",
        ),
        ("nonsense", "all ids are in reports/tables.json"),
    ],
)
def test_a_wrong_cell_names_a_few_near_ones(cell: str, told: str) -> None:
    write_json(PAGE.with_suffix(".json"), minimal_tables(cells=IDS))
    with pytest.raises(LpstepsError) as raised:
        cli.why(cell, PAGE)
    assert str(raised.value) == f"{cell}: no such cell in {PAGE}; {told}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/away"),
            "error: /away: may not be written or read; correct its permissions, then run the same "
            "command again\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: no space left on the disk; free some, then run the same command again\n",
        ),
        (
            MemoryError(),
            "error: not enough memory; end other programs or take a larger machine, then run the "
            "same command again\n",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "a"),
            "error: FileExistsError: [Errno 17] File exists: 'a'\n",
        ),
    ],
)
def test_troubles_of_the_machine_are_one_line(
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("lpsteps.crate.export", fail)
    monkeypatch.setattr(sys, "argv", ["lpsteps", "crate", "--output", "/away/crate.zip"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == told
