"""From ``tables.json`` to one self-contained HTML page.

Everything that needs thought (which columns a group of rows shows, what a cell says about itself,
how sample limits read in words) is settled here, so that the templates only place it.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError
from markupsafe import Markup

from lpsteps.errors import LpstepsError
from lpsteps.profile_files import override_arguments
from lpsteps.report.curve_figures import CurvesView, curves_view
from lpsteps.report.figure_drawings import figure_sections
from lpsteps.report.figures import FigureView, figure_view
from lpsteps.report.glance import glance_views
from lpsteps.report.panel_data import column_titles, panel_data
from lpsteps.report.summary import SIGNS, summary_view, table_line
from lpsteps.report.sweep_figures import sweep_view
from lpsteps.report.verdicts import RULES

PAGE_TEMPLATE = "page.html.j2"
STYLE = "style.css"
# In the order in which they run: each may use what stands in those before it.
SCRIPTS = ("data.js", "panel.js", "tooltip.js", "view.js", "sorting.js", "exports.js")

_MOST_COMMITS = 3


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
    strip: tuple[bool, ...]


@dataclass(frozen=True)
class RowView:
    """One row: cells (None where the paper prints nothing), or one reason across all columns.

    Neighbours with the same reason are one row, with the labels of all and the cells of the first.
    ``heading`` is the name of the row's ``group`` in the first row of it, empty in the others.
    """

    group: str
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

    id: str
    title: str
    hint: str
    starts_group: bool


@dataclass(frozen=True)
class GroupView:
    """All levels of one model: one HTML table, and the figures of it."""

    anchor: str
    model: str
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
        payload: Content of ``tables.json``, as :mod:`lpsteps.report.stored_tables` reads it.
        payload_digest: Its SHA-256, shown at the foot.
        templates: Content of the template files by name: ``page.html.j2``, what it includes,
            the style and the scripts.

    Raises:
        LpstepsError: A template is missing or wrong.
    """
    for name in (PAGE_TEMPLATE, STYLE, *SCRIPTS):
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
    tables = table_views(payload)
    context = {
        "run": payload["run"],
        "overrides": shlex.join(override_arguments(payload["run"]["overrides"])),
        "models": [_model_line(model) for model in payload["run"]["models"]],
        "machines": [_machine_line(machine) for machine in payload["run"]["machines"]],
        "commits": _commit_lines(payload["run"]["commits"]),
        "number_types": number_types(payload),
        "glances": glance_views(payload),
        "samples": sample_sentences(payload),
        "tables": tables,
        "choices": _model_choices(tables),
        "figures": figure_sections(payload),
        "summary": summary_view(payload["run"]["summary"]),
        "signs": SIGNS,
        "rules": RULES,
        "intervals": any(cell["interval"] for cell in payload["cells"]),
        "digest": payload_digest,
        "style": _inline(templates, STYLE, "</style"),
        "scripts": [_inline(templates, name, "</script") for name in SCRIPTS],
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
    # A file of this project, without the end of its element.
    return Markup(templates[name])  # nosec B704


def script_json(content: Any) -> Markup:
    """Return JSON that is safe inside a ``script`` element, whatever the strings hold."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # Nothing in it can open or close an element.
    return Markup(text)  # nosec B704


def _model_line(model: Mapping[str, Any]) -> dict[str, str]:
    return {
        "title": model["title"],
        "facts": f"{model['n_layers']} layers, {_count(model['parameters'])} parameters",
    }


def _machine_line(machine: Mapping[str, Any]) -> str:
    parts = [machine["processor"], f"{machine['cores']} cores", f"{machine['memory_gib']} GiB"]
    return ", ".join([machine["gpu"], *parts] if "gpu" in machine else parts)


def _commit_lines(commits: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return each commit, shortened, and what to say of it; of many, the first and the last."""
    shown = list(commits)
    lines = [(commit["commit"][:10], _of_commit(commit)) for commit in shown]
    if len(lines) > _MOST_COMMITS:
        between = ("", f"{len(lines) - 2} commits in between")
        lines = [lines[0], between, lines[-1]]
    return lines


def _of_commit(commit: Mapping[str, Any]) -> str:
    """Return the day of a commit and whether files differed from it, as far as that is known."""
    parts = [f"of {commit['date']}"] if commit["date"] else []
    if commit["dirty"]:
        parts.append("with changes that are in no commit")
    return ", ".join(parts)


def _model_choices(tables: Sequence[TableView]) -> list[tuple[str, str, str]]:
    """Return id, title and kind of every model that a table shows, the measured ones first."""
    groups = [group for table in tables for group in table.groups]
    titles = {group.model: group.title for group in groups}
    measured = {group.model for group in groups if group.kind == "measured"}
    return [
        (model, title, "measured" if model in measured else "published")
        for model, title in sorted(titles.items(), key=lambda one: one[0] not in measured)
    ]


def _count(number: int) -> str:
    if number >= 10**9:
        return f"{number / 10**9:.2f} billion"
    return f"{number / 10**6:.1f} million"


def number_types(payload: Mapping[str, Any]) -> list[str]:
    """Return the dtypes that models were scored in, as torch names them, sorted."""
    settings = [score["settings"] for score in payload["scores"].values()]
    return sorted({stated["dtype"] for stated in settings if "dtype" in stated})


def sample_sentences(payload: Mapping[str, Any]) -> list[str]:
    """Say in words how much of each split the scores are over."""
    titles = {
        column["id"]: column["title"] for table in payload["tables"] for column in table["columns"]
    }
    shown = [case for case in payload["run"]["limits"] if case["benchmark"] in titles]

    def named(cases: Iterable[Mapping[str, Any]]) -> str:
        return ", ".join(dict.fromkeys(titles[case["benchmark"]] for case in cases))

    sentences = []
    for protocol, subject, unit, which in (
        ("harness", "question-answering number", "documents", "spread evenly"),
        ("perplexity", "perplexity", "windows", "the first ones of its split"),
    ):
        cases = [case for case in shown if case["protocol"] == protocol]
        limited = [case for case in cases if case["limited"]]
        counts = {case["n"] for case in limited}
        if not cases:
            continue
        if not limited:
            sentences.append(f"Each {subject} is over all {unit} of its split.")
        elif len(counts) == 1 and len(limited) == len(cases):
            sentences.append(f"Each {subject} is on {counts.pop()} {unit}, {which}.")
        else:
            parts = []
            for n in sorted(counts, reverse=True):
                parts.append(f"{n} for {named(case for case in limited if case['n'] == n)}")
            # A title in both lists is limited for one model, whose windows are more.
            cut = {case["benchmark"] for case in limited}
            whole = [case for case in cases if case["benchmark"] not in cut]
            parts += [f"all for {named(whole)}"] if whole else []
            sentences.append(
                f"Each {subject} is on a limited number of {unit}, {which}: {'; '.join(parts)}."
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
        model=first["model"],
        title=first["title"],
        kind=kind,
        subtitle=subtitle,
        heads=tuple(heads) if any(name for name, _ in heads) else (),
        columns=tuple(
            ColumnView(
                id=column["id"],
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
        group=row["group"],
        heading=row["group"] if starts_group else "",
        label=row["label"],
        kind=row["kind"],
        note=row["note"] or "",
        reason=str(reasons.pop()) if whole_row else "",
        reason_cell=str(ids[0]) if whole_row else "",
        cells=tuple(_cell_view(cell, section["n_layers"]) if cell else None for cell in found),
    )


def _folded(rows: Iterable[RowView]) -> tuple[RowView, ...]:
    """Put neighbouring rows of one group that are missing for the same reason into one line."""
    folded: list[RowView] = []
    for row in rows:
        last = folded[-1] if folded else None
        same = last and row.reason and (row.reason, row.note) == (last.reason, last.note)
        if last and same and row.group == last.group:
            folded[-1] = replace(last, label=f"{last.label}; {row.label}")
        else:
            folded.append(row)
    return tuple(folded)


def _cell_view(cell: Mapping[str, Any], n_layers: int) -> CellView:
    stderr = f"{cell['stderr']:.2f}" if cell["stderr"] is not None else ""
    sample = _sample_marks(cell)
    printed = ""
    if cell["status"] != "published" and cell["published_text"] is not None:
        printed = cell["published_text"]
    verdict = cell["verdict"]["word"] if cell["verdict"] else ""
    best = cell["versus_best"]
    tied = best is not None and not best["told_apart"] and cell["mark"] != "best"
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
        strip=tuple(layer in removed for layer in range(n_layers)) if removed else (),
    )


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
    names = column_titles(columns)
    rows = [
        row for body in bodies for row in body.rows if row.kind == "measured" and not row.reason
    ]
    for index, column in enumerate(columns):
        reasons = {cells[cell.id]["reason"] for row in rows if (cell := row.cells[index])}
        if len(reasons) == 1 and (reason := reasons.pop()) is not None:
            titles.setdefault(reason, []).append(names[column["id"]])
    return tuple((", ".join(listed), reason) for reason, listed in titles.items())
