"""From ``tables.json`` to one self-contained HTML page.

Everything that needs thought (which columns a group of rows shows, what a cell says about itself,
how sample limits read in words) is settled here, so that the templates only place it.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError
from markupsafe import Markup

from lpsteps.errors import LpstepsError
from lpsteps.report.cells import SCHEMA
from lpsteps.report.chains import lineage_chains
from lpsteps.report.curve_figures import CurvesView, curves_view
from lpsteps.report.figure_drawings import figure_sections
from lpsteps.report.figures import FigureView, figure_view
from lpsteps.report.summary import SIGNS, summary_view, table_line
from lpsteps.report.sweep_figures import sweep_view
from lpsteps.report.verdicts import RULES

PAGE_TEMPLATE = "page.html.j2"
STYLE, SCRIPT = "style.css", "script.js"

_STATUS_WORDS = {"measured": "measured", "published": "printed in the paper", "missing": "missing"}
_VERSUS_SHOWN = ("cell", "label", "test", "text", "told_apart")
_MARK_WORDS = {"best": "best of its section", "second": "second best of its section"}


@dataclass(frozen=True)
class CellView:
    """One cell of the page.

    Attributes:
        id: Cell id.
        text: The number.
        kind: ``measured``, ``published`` or ``missing``.
        mark: ``best``, ``second`` or empty.
        stderr: Standard error as text, empty if unknown.
        interval: 95 % interval as text, empty if there is none.
        sample: Marks of a number that is not over everything, such as ``7 of 9`` and ``n=64``.
        tied: Whether the number is not the best but cannot be told from it.
        printed: The paper's value beside a measured or missing one, else empty.
        noted: Whether there is a note on the paper's value.
        verdict: ``reproduced``, ``close``, ``differs``, ``undecided`` or empty.
        sign: The verdict as a sign.
        hint: Shown on hover.
        spoken: What a screen reader says.
        strip: Per decoder layer, whether it is removed; empty outside of layer columns.
    """

    id: str
    text: str
    kind: str
    mark: str
    stderr: str
    interval: str
    sample: tuple[str, ...]
    tied: bool
    printed: str
    noted: bool
    verdict: str
    sign: str
    hint: str
    spoken: str
    strip: tuple[bool, ...]


@dataclass(frozen=True)
class RowView:
    """One row: cells (None where the paper prints nothing), or one reason across all columns.

    Neighbours with the same reason are one row, with the labels of all and the cells of the first.
    ``heading`` is that of a group of rows, in the first of them.
    """

    heading: str
    label: str
    kind: str
    note: str
    reason: str
    reason_cell: str
    cells: tuple[CellView | None, ...]


@dataclass(frozen=True)
class BodyView:
    """Rows of one pruning level; the heading is empty for the dense row."""

    heading: str
    kind: str
    rows: tuple[RowView, ...]


@dataclass(frozen=True)
class ColumnView:
    """One column heading; ``starts_group`` marks where a vertical rule goes."""

    title: str
    hint: str
    starts_group: bool


@dataclass(frozen=True)
class GroupView:
    """All levels of one model: one HTML table, and the figures of it."""

    anchor: str
    title: str
    kind: str
    subtitle: str
    heads: tuple[tuple[str, int], ...]
    columns: tuple[ColumnView, ...]
    is_layers: bool
    bodies: tuple[BodyView, ...]
    absences: tuple[tuple[str, str], ...]
    width: int
    figure: FigureView | None
    curves: tuple[CurvesView, ...]


@dataclass(frozen=True)
class TableView:
    """One table of the paper with all models."""

    anchor: str
    number: str
    title: str
    caption: str
    summary: str
    groups: tuple[GroupView, ...]


def render_page(
    payload: Mapping[str, Any], payload_digest: str, templates: Mapping[str, str]
) -> str:
    """Render the page.

    Args:
        payload: Content of ``tables.json``.
        payload_digest: Its SHA-256, shown at the foot.
        templates: Content of the template files by name: ``page.html.j2``, what it includes,
            ``style.css`` and ``script.js``.

    Raises:
        LpstepsError: A template is missing or wrong, or the payload has another schema.
    """
    if payload.get("schema") != SCHEMA:
        found = payload.get("schema")
        raise LpstepsError(
            f"tables.json: schema {found!r}, expected {SCHEMA}; delete it to rebuild"
        )
    for name in (PAGE_TEMPLATE, STYLE, SCRIPT):
        if name not in templates:
            raise LpstepsError(f"--templates: {name} was not given")
    environment = Environment(
        loader=DictLoader(dict(templates)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    context = {
        "run": payload["run"],
        "models": [_model_line(model) for model in payload["run"]["models"]],
        "samples": sample_sentences(payload),
        "tables": table_views(payload),
        "figures": figure_sections(payload),
        "summary": summary_view(payload["run"]["summary"]),
        "signs": SIGNS,
        "rules": RULES,
        "intervals": any(cell["interval"] for cell in payload["cells"]),
        "digest": payload_digest,
        "style": _inline(templates, STYLE, "</style"),
        "script": _inline(templates, SCRIPT, "</script"),
        "data": script_json(panel_data(payload)),
    }
    try:
        return environment.get_template(PAGE_TEMPLATE).render(context)
    except TemplateError as error:
        where = getattr(error, "name", None) or PAGE_TEMPLATE
        raise LpstepsError(f"{where}: {error}") from error


def _inline(templates: Mapping[str, str], name: str, end: str) -> Markup:
    if end in templates[name].lower():
        raise LpstepsError(f"{name}: '{end}' would end the element that the file is placed in")
    return Markup(templates[name])


def script_json(content: Any) -> Markup:
    """Return JSON that is safe inside a ``script`` element, whatever the strings hold."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _model_line(model: Mapping[str, Any]) -> dict[str, str]:
    return {
        "title": model["title"],
        "facts": f"{model['n_layers']} layers, {_count(model['parameters'])} parameters",
    }


def _count(number: int) -> str:
    if number >= 10**9:
        return f"{number / 10**9:.2f} billion"
    return f"{number / 10**6:.1f} million"


def sample_sentences(payload: Mapping[str, Any]) -> list[str]:
    """Say in words how much of each split the scores are over."""
    titles = {
        column["id"]: column["title"] for table in payload["tables"] for column in table["columns"]
    }
    shown = [case for case in payload["run"]["limits"] if case["benchmark"] in titles]
    sentences = []
    for protocol, subject, unit in (
        ("harness", "question-answering number", "documents"),
        ("perplexity", "perplexity", "windows"),
    ):
        cases = [case for case in shown if case["protocol"] == protocol]
        limited = [case for case in cases if case["limited"]]
        counts = {case["n"] for case in limited}
        if not cases:
            continue
        if not limited:
            sentences.append(f"Each {subject} is over all {unit} of its split.")
        elif len(counts) == 1 and len(limited) == len(cases):
            sentences.append(f"Each {subject} is on the first {counts.pop()} {unit} of its split.")
        else:
            parts = []
            for n in sorted(counts, reverse=True):
                names = [titles[case["benchmark"]] for case in limited if case["n"] == n]
                parts.append(f"the first {n} for {', '.join(names)}")
            whole = [titles[case["benchmark"]] for case in cases if not case["limited"]]
            parts += [f"all for {', '.join(whole)}"] if whole else []
            sentences.append(
                f"Each {subject} is on a limited number of {unit}: {'; '.join(parts)}."
            )
    return sentences


def table_views(payload: Mapping[str, Any]) -> list[TableView]:
    """Arrange all tables for display: consecutive sections of a model form one HTML table."""
    cells = {cell["id"]: cell for cell in payload["cells"]}
    views = []
    for table in payload["tables"]:
        groups = [
            _group_view(table, list(sections), cells, payload["run"])
            for _, sections in itertools.groupby(
                table["sections"], key=lambda section: section["model"]
            )
        ]
        views.append(
            TableView(
                anchor=table["id"],
                number=f"Table {table['number']}" if table["number"] is not None else "",
                title=table["title"],
                caption=table["caption"],
                summary=table_line(table["summary"]),
                groups=tuple(groups),
            )
        )
    return views


def _group_view(
    table: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
    cells: Mapping[str, Mapping[str, Any]],
    run: Mapping[str, Any],
) -> GroupView:
    shown = [
        index
        for index in range(len(table["columns"]))
        if table["columns"][index]["shown"]
        and any(row["cells"][index] for section in sections for row in section["rows"])
    ]
    columns = [table["columns"][index] for index in shown]
    kinds = {section["kind"] for section in sections}
    kind = "measured" if "measured" in kinds else "published"
    first = sections[0]
    facts = [model for model in run["models"] if model["id"] == first["model"]]
    subtitle = "printed in the paper"
    if kind == "measured":
        subtitle = _model_line(facts[0])["facts"]
    bodies = tuple(
        BodyView(
            heading=_body_heading(section, mixed=len(kinds) > 1),
            kind=section["kind"],
            rows=_folded(
                _row_view(row, before, section, [row["cells"][i] for i in shown], columns, cells)
                for before, row in itertools.pairwise([None, *section["rows"]])
            ),
        )
        for section in sections
    )
    heads = [
        (name, len(list(members)))
        for name, members in itertools.groupby(columns, key=lambda column: column["group"])
    ]
    figure = None
    if table["figure"] and kind == "measured":
        arrange = sweep_view if table["figure"]["x"] else figure_view
        figure = arrange(table, sections, cells)
    return GroupView(
        anchor=f"{table['id']}-{first['model']}",
        title=first["title"],
        kind=kind,
        subtitle=subtitle,
        heads=tuple(heads) if any(name for name, _ in heads) else (),
        columns=tuple(
            ColumnView(
                title=column["title"],
                hint=_column_hint(column),
                starts_group=index > 0 and columns[index - 1]["group"] != column["group"],
            )
            for index, column in enumerate(columns)
        ),
        is_layers=all(column["unit"] == "layers" for column in columns),
        bodies=bodies,
        absences=_absences(columns, bodies, cells),
        width=len(columns) + 1,
        figure=figure,
        curves=tuple(
            curves_view(table["id"], curves, first["n_layers"])
            for curves in table["curves"]
            if curves["model"] == first["model"]
        ),
    )


def _body_heading(section: Mapping[str, Any], mixed: bool) -> str:
    if section["n"] == 0:
        return ""
    heading = f"{section['n']} of {section['n_layers']} layers removed"
    return (
        f"{heading}, printed in the paper" if mixed and section["kind"] == "published" else heading
    )


def _column_hint(column: Mapping[str, Any]) -> str:
    direction = {True: ", higher is better", False: ", lower is better", None: ""}
    unit = "" if column["unit"] in ("layers", "answer", "text", "count") else f": {column['unit']}"
    return f"{column['id']}{unit}{direction[column['higher_is_better']]}"


def _row_view(
    row: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    section: Mapping[str, Any],
    ids: Sequence[str | None],
    columns: Sequence[Mapping[str, Any]],
    cells: Mapping[str, Mapping[str, Any]],
) -> RowView:
    found = [cells[name] if name else None for name in ids]
    reasons = {cell["reason"] if cell and not cell["published_text"] else None for cell in found}
    whole_row = len(reasons) == 1 and None not in reasons
    starts_group = row["group"] != (before["group"] if before else "")
    return RowView(
        heading=row["group"] if starts_group else "",
        label=row["label"],
        kind=row["kind"],
        note=row["note"] or "",
        reason=str(reasons.pop()) if whole_row else "",
        reason_cell=str(ids[0]) if whole_row else "",
        cells=tuple(
            _cell_view(cell, column, section["n_layers"]) if cell else None
            for cell, column in zip(found, columns, strict=True)
        ),
    )


def _folded(rows: Iterable[RowView]) -> tuple[RowView, ...]:
    """Put neighbouring rows of one heading that are missing for the same reason into one line."""
    folded: list[RowView] = []
    for row in rows:
        last = folded[-1] if folded else None
        same = last and row.reason and (row.reason, row.note) == (last.reason, last.note)
        if last and same and not row.heading:
            folded[-1] = replace(last, label=f"{last.label}; {row.label}")
        else:
            folded.append(row)
    return tuple(folded)


def _cell_view(cell: Mapping[str, Any], column: Mapping[str, Any], n_layers: int) -> CellView:
    stderr = f"{cell['stderr']:.2f}" if cell["stderr"] is not None else ""
    sample = _sample_marks(cell)
    printed = ""
    if cell["status"] != "published" and cell["published_text"] is not None:
        printed = cell["published_text"]
    words = [_STATUS_WORDS[cell["status"]]]
    if cell["reason"]:
        words.append(cell["reason"])
    if cell["n"] is not None:
        of = f" of {cell['total']}" if cell["total"] is not None else ""
        unit = "windows" if column["unit"] == "perplexity" else "documents"
        words.append(f"on {cell['n']}{of} {unit}")
    else:
        words.extend(sample)
    if cell["mark"]:
        words.append(_MARK_WORDS[cell["mark"]])
    if printed:
        words.append(f"the paper prints {printed}")
    verdict = cell["verdict"]["word"] if cell["verdict"] else ""
    best = cell["versus_best"]
    tied = best is not None and not best["told_apart"] and cell["mark"] != "best"
    spoken, hint = [*words], [*words]
    if verdict:
        spoken.append(verdict)
        difference = _difference(cell)
        known = f"difference {difference}, " if isinstance(difference, str) else ""
        hint.append(f"{verdict}: {known}{cell['verdict']['rule']}")
    if printed and cell["published_note"]:
        spoken.append(cell["published_note"])
        hint.append(cell["published_note"])
    if tied:
        spoken.append("cannot be told from the best")
    if best is not None:
        told = "differs" if best["told_apart"] else "cannot be told"
        hint.append(f"{told} from the best, {best['label']}: {best['text']}")
    value = "" if cell["status"] == "missing" else cell["text"]
    shown = f"{value} ({stderr})" if stderr else value
    if cell["interval"]:
        for listed in (spoken, hint):
            listed.insert(0, f"95 % interval {cell['interval_text']}")
    removed = set(cell["value"]) if isinstance(cell["value"], list) else set()
    return CellView(
        id=cell["id"],
        text=cell["text"],
        kind=cell["status"],
        mark=cell["mark"] or "",
        stderr=stderr,
        interval=cell["interval_text"] or "",
        sample=sample,
        tied=tied,
        printed=printed,
        noted=bool(printed and cell["published_note"]),
        verdict=verdict,
        sign=SIGNS.get(verdict, ""),
        hint=", ".join(filter(None, [shown, *hint])),
        spoken=", ".join(filter(None, [column["title"], value, *spoken])),
        strip=tuple(layer in removed for layer in range(n_layers)) if removed else (),
    )


def _difference(cell: Mapping[str, Any]) -> str | int | None:
    """Return the difference from the printed value, with its standard error where there is one.

    Numbers of layers stay numbers.
    """
    difference: float | int | None = cell["difference"]
    if not isinstance(difference, float):
        return difference
    error = cell["difference_stderr"]
    return f"{difference:+.2f}" + (f", standard error {error:.2f}" if error is not None else "")


def _sample_marks(cell: Mapping[str, Any]) -> tuple[str, ...]:
    marks = []
    if cell["benchmarks_used"] != cell["benchmarks_wanted"]:
        marks.append(f"{cell['benchmarks_used']} of {cell['benchmarks_wanted']}")
    if cell["limited"]:
        marks.append("limited" if cell["n"] is None else f"n={cell['n']}")
    return tuple(marks)


def _absences(
    columns: Sequence[Mapping[str, Any]],
    bodies: Sequence[BodyView],
    cells: Mapping[str, Mapping[str, Any]],
) -> tuple[tuple[str, str], ...]:
    """Pair up columns that no row of the group fills with the reason, equal reasons together."""
    titles: dict[str, list[str]] = {}
    names = _full_titles(columns)
    rows = [
        row for body in bodies for row in body.rows if row.kind == "measured" and not row.reason
    ]
    for index, column in enumerate(columns):
        reasons = {cells[cell.id]["reason"] for row in rows if (cell := row.cells[index])}
        if len(reasons) == 1 and (reason := reasons.pop()) is not None:
            titles.setdefault(reason, []).append(names[column["id"]])
    return tuple((", ".join(listed), reason) for reason, listed in titles.items())


def _full_titles(columns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return each column's title, with its group where another column has the same one."""
    repeated = Counter(column["title"] for column in columns)
    return {
        column["id"]: f"{column['title']} ({column['group']})"
        if repeated[column["title"]] > 1
        else column["title"]
        for column in columns
    }


def panel_data(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page's source panel shows: cells by id, and what several of them share.

    Entries of cells without content are left out. The files behind the cells are in ``lineage``,
    where a cell finds its own by the path of its source.
    """
    labels: dict[str, dict[str, str | None]] = {}
    columns = {
        (table["id"], column["id"]): column
        for table in payload["tables"]
        for column in table["columns"]
    }
    titles = {
        (table["id"], column): title
        for table in payload["tables"]
        for column, title in _full_titles(table["columns"]).items()
    }
    for table in payload["tables"]:
        for section in table["sections"]:
            for row in section["rows"]:
                for name in filter(None, row["cells"]):
                    labels[name] = {
                        "row_label": row["label"],
                        "row_group": row["group"] or None,
                        "model_title": section["title"],
                    }
    cells = {}
    for cell in payload["cells"]:
        column = columns[cell["table"], cell["column"]]
        details = {
            **cell,
            **labels[cell["id"]],
            "column_title": titles[cell["table"], cell["column"]],
            "unit": column["unit"],
        }
        details["difference"] = _difference(cell)
        details["difference_stderr"] = None
        for name in ("versus_best", "versus_unrepaired"):
            versus = cell[name]
            details[name] = versus and {key: versus[key] for key in _VERSUS_SHOWN}
        cells[cell["id"]] = {
            name: value
            for name, value in details.items()
            if value is not None and value is not False and value != []
        }
    roots = {cell["source"]["path"] for cell in payload["cells"] if cell["source"]}
    scores = payload["scores"]
    return {
        "cells": cells,
        "variants": payload["variants"],
        "scores": scores,
        # A score file states its settings itself.
        "lineage": lineage_chains(payload["artifacts"], roots, roots - scores.keys()),
    }
