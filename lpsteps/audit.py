"""Verify a page: every file behind it, every number in it, and the code that made them.

An audit trusts nothing that it can compute: it hashes each file again, derives each cell again
from its scores, renders the page again from the tables, and digests the checked-out source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lpsteps import fingerprint, provenance
from lpsteps.artifacts import sha256_file
from lpsteps.errors import LpstepsError, first_line
from lpsteps.profile_files import profile_option
from lpsteps.provenance import Artifact, Lineage
from lpsteps.report.page import render_page
from lpsteps.report.stored_tables import read_tables
from lpsteps.report.tables import derive_tables


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        page: The page.
        problems: One line each, the file or cell first; empty when everything verifies.
        numbers: Cells with a number that were derived again.
        files: Files that were hashed.
        bytes: Their total size.
    """

    page: str
    problems: list[str]
    numbers: int
    files: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return all fields as plain data."""
        return asdict(self)


class _CellTexts(HTMLParser):
    """Collects, for every element with ``data-cell``, the text that it shows as its value."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._cell: str | None = None
        self._in_value = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter a cell or the value inside of one."""
        attributes = dict(attrs)
        if tag == "button" and "data-cell" in attributes:
            self._cell = attributes["data-cell"]
        elif self._cell and "value" in (attributes.get("class") or "").split():
            self._in_value = True
            self.texts.setdefault(self._cell, "")

    def handle_endtag(self, tag: str) -> None:
        """Leave a cell or its value."""
        if tag == "button":
            self._cell = None
        elif tag == "span":
            self._in_value = False

    def handle_data(self, data: str) -> None:
        """Take the text of a value."""
        if self._in_value and self._cell:
            self.texts[self._cell] += data


def _recorded_inputs(output: Path) -> list[Path]:
    return [Path(entry["path"]) for entry in provenance.read_record(output)["inputs"]]


def _chain_problems(lineage: Lineage, page: Path, tables: Path) -> Iterator[str]:
    """Yield what is wrong with files: of each branch, so that one fault does not hide another.

    The CSV files are made together with the tables, from the same cells.
    """
    for output in (page, tables):
        try:
            record = provenance.read_record(output)
            roots = [Path(entry["path"]) for entry in (*record["inputs"], *record["outputs"])]
        except LpstepsError as error:
            yield str(error)
            continue
        written = {Path(entry["path"]): str(entry["sha256"]) for entry in record["outputs"]}
        for path in roots:
            problem = lineage.problem(path)
            if problem is not None:
                yield problem
            elif path in written and lineage.artifacts[path].record is None:
                yield f"{provenance.record_path(path)}: missing, so nothing tells what made {path}"
            elif path in written and lineage.artifacts[path].sha256 != written[path]:
                yield f"{path}: is not the file that was made together with {output}"


def _cell_problems(stored: dict[str, Any], derived: dict[str, Any], tables: Path) -> Iterator[str]:
    """Yield the cells of ``tables.json`` that its inputs do not give."""
    expected = {cell["id"]: cell for cell in derived["cells"]}
    found = {cell["id"]: cell for cell in stored["cells"]}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{tables}: {name}: the cell is gone"
        elif name not in expected:
            yield f"{tables}: {name}: no input gives this cell"
        elif found[name] != expected[name]:
            keys = [key for key in expected[name] if found[name].get(key) != expected[name][key]]
            details = ", ".join(
                f"{key} is {found[name].get(key)!r}, its inputs give {expected[name][key]!r}"
                for key in keys
            )
            yield f"{tables}: {name}: {details or 'has a key that does not belong there'}"
    others = sorted(key for key in derived if key != "cells" and stored.get(key) != derived[key])
    for key in others:
        yield f"{tables}: '{key}' is not what its inputs give"


def _page_problems(text: str, payload: dict[str, Any], rendered: str, page: Path) -> Iterator[str]:
    """Yield the cells that the page shows otherwise than the tables have them."""
    parser = _CellTexts()
    parser.feed(text)
    cells = {cell["id"]: cell["text"] for cell in payload["cells"]}
    wrong = False
    for name, shown in parser.texts.items():
        if name not in cells:
            wrong = True
            yield f"{page}: {name}: the tables have no such cell"
        elif shown.strip() != cells[name]:
            wrong = True
            yield f"{page}: {name}: shows '{shown.strip()}', the tables have '{cells[name]}'"
    if text != rendered and not wrong:
        yield f"{page}: is not what its templates make of the tables"


def _code_problems(artifacts: list[Artifact]) -> Iterator[str]:
    """Yield the files that other code made than the code that is checked out."""
    for artifact in artifacts:
        if artifact.record is None:
            continue
        recorded = artifact.record["code"]
        roots = [artifact.record["module"], *artifact.record["spec"].get("modules", [])]
        try:
            current = fingerprint.closure(roots)
        except LpstepsError as error:
            yield f"{artifact.path}: made by other code: {error}"
            continue
        if current != recorded:
            names = sorted(
                name
                for name in current.keys() | recorded.keys()
                if current.get(name) != recorded.get(name)
            )
            yield f"{artifact.path}: made by other code: {', '.join(names)}"


def audit(page: Path) -> Audit:
    """Verify a page and everything behind it.

    Args:
        page: The HTML page, relative to the project's folder, which is the working directory.

    Raises:
        LpstepsError: The page or its tables cannot be read at all.
    """
    if not page.is_file():
        raise LpstepsError(f"{page}: no such file; build it with `snakemake --cores 1 {page}`")
    tables = page.with_suffix(".json")
    stored = read_tables(tables)
    lineage = Lineage()
    problems = list(_chain_problems(lineage, page, tables))
    try:
        record = provenance.read_record(tables)
        derived = derive_tables(record["spec"], _recorded_inputs(tables), lineage)
        problems.extend(_cell_problems(stored, derived, tables))
        templates = {
            path.name: path.read_text(encoding="utf-8")
            for path in _recorded_inputs(page)
            if path != tables and path.is_file()
        }
        rendered = render_page(stored, sha256_file(tables), templates)
        text = page.read_text(encoding="utf-8")
        problems.extend(_page_problems(text, stored, rendered, page))
    except (LpstepsError, UnicodeDecodeError) as error:
        problems.append(str(error))
    except (KeyError, TypeError) as error:
        problems.append(f"{tables}: {first_line(error)}; delete it to rebuild it")
    checked = list(lineage.artifacts.values())
    problems.extend(_code_problems(lineage.behind([page, tables])))
    return Audit(
        page=str(page),
        problems=list(dict.fromkeys(problems)),
        numbers=sum(cell["status"] == "measured" for cell in stored["cells"]),
        files=len(checked),
        bytes=sum(artifact.bytes for artifact in checked),
    )


def explain(
    cell: dict[str, Any],
    artifacts: dict[str, Any],
    profile: str,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Yield the lineage of a cell as lines of text: what it is, then each file with its maker.

    Args:
        cell: A cell of ``tables.json``.
        artifacts: The files behind all cells, as ``tables.json`` has them.
        profile: The profile of the run, likewise.
        overrides: The settings that were given beside it, likewise.
    """
    value = cell["text"] if cell["value"] is not None else f"missing ({cell['reason']})"
    yield f"{cell['id']}: {value}"
    if cell["stderr"] is not None:
        yield f"  standard error {cell['stderr']:.4g}, {cell['n'] or 'several'} samples"
    if cell["interval"] is not None:
        yield f"  95 % interval {cell['interval_text']} over the evaluation windows"
    if cell["published"] is not None:
        yield f"  the paper prints {cell['published_text']}"
    for part in cell["parts"]:
        yield f"  computed from {part}"
    if cell["source"] is not None:
        yield f"  read at {cell['source']['pointer']}"
        option = profile_option(profile, overrides)
        yield from _explain_file(cell["source"]["path"], artifacts, option, 1, set())


def _explain_file(
    path: str, artifacts: dict[str, Any], option: str, depth: int, seen: set[str]
) -> Iterator[str]:
    indent = "  " * depth
    facts = artifacts.get(path)
    if facts is None:
        yield f"{indent}{path} (source file)"
        return
    if path in seen:
        yield f"{indent}{path} (see above)"
        return
    seen.add(path)
    yield f"{indent}{path}"
    yield f"{indent}  sha256 {facts['sha256']}, {facts['bytes']} bytes"
    if "rule" in facts:
        yield f"{indent}  made by {facts['rule']}, code {facts['code']}"
        yield f"{indent}  repeat with: snakemake --cores 1 --force {facts['target']}{option}"
    for source in facts["inputs"]:
        yield from _explain_file(source, artifacts, option, depth + 1, seen)
