"""The messages of docs/troubleshooting.md: each is what its input brings about, word for word."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from guide import Block, blocks, commands, follow, matches, write_block
from project import CHECKOUT

from lpsteps.config import load_config, read_yaml
from lpsteps.errors import LpstepsError

PAGE = "docs/troubleshooting.md"
PLAN = "snakemake -n reports/tables.html"


def sections() -> Iterator[tuple[str, list[Block]]]:
    """The headings of the page with their blocks, those without any left out."""
    lines = (CHECKOUT / PAGE).read_text().splitlines()
    headings = [number for number, line in enumerate(lines, start=1) if line.startswith("##")]
    for start, end in zip(headings, [*headings[1:], len(lines) + 1], strict=True):
        found = [block for block in blocks(PAGE) if start < block.line < end]
        if found:
            yield lines[start - 1].strip("# "), found


def is_planned(found: list[Block]) -> bool:
    """Whether the message comes while the default profile is planned."""
    return [command.text for command in commands(found[-1])] == [PLAN]


PLANNED = {heading: found for heading, found in sections() if is_planned(found)}
RUN = {heading: found for heading, found in sections() if not is_planned(found)}


def test_the_page_has_both_kinds():
    assert len(PLANNED) >= 6 and len(RUN) >= 6


@pytest.mark.parametrize("heading", PLANNED)
def test_mistakes_in_the_config(heading: str, tmp_path: Path, monkeypatch):
    """The default profile itself, in a copy of its files: what `snakemake -n` checks first."""
    for name in ("config", "reports"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    *edits, block = PLANNED[heading]
    for edit in edits:
        write_block(edit, tmp_path, {})
    monkeypatch.chdir(tmp_path)
    profile = "config/config.yaml"
    with pytest.raises(LpstepsError) as caught:
        load_config(read_yaml(Path(profile)), [profile])
    (command,) = commands(block)
    assert matches(command.printed, f"error: {caught.value}\n"), str(caught.value)


def prepare(project: Path) -> None:
    """What the page expects a reader to have: files that are wrong in its way."""
    (project / "pickled-model").mkdir()
    shutil.copy(project / "model/config.json", project / "pickled-model")
    (project / "pickled-model/pytorch_model.bin").write_bytes(b"pickled")
    (project / "damaged.whl").write_bytes(b"damaged")


def leave_a_lock(project: Path) -> None:
    """Do what a killed run does: leave no page, and the lock of its files."""
    (project / "reports/tables.html").unlink()
    locks = project / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("reports/tables.html\n")


@pytest.mark.slow
def test_mistakes_that_a_run_meets(project: Path):
    prepare(project)
    config = {path: path.read_bytes() for path in (project / "config").iterdir()}
    for heading, found in RUN.items():
        if "killed" in heading:
            leave_a_lock(project)
        assert follow(found, project, PAGE)
        for path, content in config.items():
            path.write_bytes(content)
