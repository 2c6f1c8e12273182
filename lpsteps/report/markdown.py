"""The measured tables as Markdown, to read where a page cannot be opened."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lpsteps.profile_files import override_arguments
from lpsteps.report.page import (
    BodyView,
    CellView,
    GroupView,
    RowView,
    number_types,
    sample_sentences,
    table_views,
)

_EMPHASIS = {"best": "**", "second": "*"}


def tables_markdown(payload: Mapping[str, Any], commit: str | None) -> str:
    """Return the tables that hold measured values, without models that are only printed ones.

    The best value of a section is bold, the second best in italics. Columns that are empty for a
    model are named below its table with the reason, like rows.

    Args:
        payload: Content of ``tables.json``.
        commit: The commit that the tables were built at, None where it is not known.
    """
    models = ", ".join(model["title"] for model in payload["run"]["models"])
    built = f"commit `{commit}`" if commit else "a commit that is not known"
    lines = [
        f"# Measured: {models}",
        "",
        f"Profile `{payload['run']['profile']}`{_overrides(payload['run'])}, built at {built}"
        f"{_scored_in(payload)}. "
        + " ".join(sample_sentences(payload))
        + " In brackets: the standard error.",
    ]
    for table in table_views(payload):
        groups = [group for group in table.groups if group.kind == "measured"]
        if groups:
            heading = f"{table.number}: {table.title}" if table.number else table.title
            lines += ["", f"## {_escaped(heading)}", "", _escaped(table.caption)]
        for group in groups:
            lines += ["", f"**{_escaped(group.title)}**", "", *_group_lines(group)]
    return "\n".join(lines) + "\n"


def _overrides(run: Mapping[str, Any]) -> str:
    words = override_arguments(run["overrides"])
    return f" with `{shlex.join(words)}`" if words else ""


def _scored_in(payload: Mapping[str, Any]) -> str:
    types = number_types(payload)
    return f", scored in {' and '.join(types)}" if types else ""


def _group_lines(group: GroupView) -> list[str]:
    measured = [(body, row) for body in group.bodies for row in body.rows if row.kind == "measured"]
    filled = [
        index
        for index in range(len(group.columns))
        if any(
            cell.kind == "measured"
            for _, row in measured
            if not row.reason and (cell := row.cells[index]) is not None
        )
    ]
    groups = [name for name, span in group.heads for _ in range(span)]
    titles = [group.columns[index].title for index in filled]
    heads = [
        f"{title} ({groups[index]})" if titles.count(title) > 1 and groups else title
        for index, title in zip(filled, titles, strict=True)
    ]
    lines = [
        _line(["Removed", "Method", *map(_escaped, heads)]),
        _line(["---", "---", *["---:" for _ in filled]]),
    ]
    notes = [f"{names}: {reason}." for names, reason in group.absences]
    for body, row in measured:
        name = f"{row.label} ({row.group})" if row.group else row.label
        if row.reason:
            notes.append(f"{name}: {row.reason}.")
        else:
            lines.append(_row_line(body, row, name, filled))
    return [*lines, *(["", *[f"- {_escaped(note)}" for note in notes]] if notes else [])]


def _row_line(body: BodyView, row: RowView, name: str, filled: Sequence[int]) -> str:
    cells = [_cell_text(row.cells[index]) for index in filled]
    return _line([_escaped(body.heading.split(",")[0]), _escaped(name), *cells])


def _cell_text(cell: CellView | None) -> str:
    if cell is None:
        return ""
    mark = _EMPHASIS.get(cell.mark, "")
    error = f" ({cell.stderr})" if cell.stderr else ""
    interval = f" {cell.interval}" if cell.interval else ""
    rest = [mark for mark in cell.sample if " of " in mark]
    rest += [f"paper {cell.printed}"] if cell.printed else []
    text = f"{mark}{_escaped(cell.text)}{mark}{error}{_escaped(interval)}"
    return ", ".join([text, *map(_escaped, rest)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Return text in which no character begins markup or ends a cell."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
