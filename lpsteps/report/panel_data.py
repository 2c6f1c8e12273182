"""What the page knows about its numbers beyond showing them: for the panel, sorting and exports.

A page may hold thousands of cells, so what many of them share is stored once: rows, columns, files,
settings and recurring sentences. `reports/templates/data.js` puts the pieces together again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lpsteps.profile_files import profile_option
from lpsteps.report.chains import lineage_chains
from lpsteps.report.figure_data import figure_csv
from lpsteps.report.numbering import Numbered

_PLAIN = (
    "text",
    "value",
    "stderr",
    "interval_text",
    "n",
    "total",
    "benchmarks_used",
    "benchmarks_wanted",
    "published",
    "published_text",
)
_SENTENCES = ("reason", "note", "published_note", "unjudged")
_VERSUS = ("versus_best", "versus_unrepaired")
USUAL_POINTER = "/value"


def panel_data(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the script of the page reads.

    Args:
        payload: Content of ``tables.json``.

    Returns:
        ``columns`` by table and column: title, unit, and whether higher is better, where one is.
        ``rows``: the part of its cells' ids in front of the column, label, heading of its group,
        and number of its model in ``models``. ``cells``: of each row, by column, what is known of
        the cell, without what is empty or usual; sentences, sources, variants and other rows are
        numbers into ``texts``, ``sources``, ``variants`` and ``rows``. A source is a number into
        the files of ``lineage``, or path and SHA-256 of a file that has no lineage; that of a score
        leads into ``settings``. ``figures``: by figure, every drawn number as CSV. ``lineage``: the
        files behind the numbers, see :func:`lpsteps.report.chains.lineage_chains`.
        ``dense``: the row of the dense model, by table and model. ``profile_option``: how a
        command names the profile.
    """
    texts, models, sources, variants, settings = (Numbered() for _ in range(5))
    rows: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    for table in payload["tables"]:
        for section in table["sections"]:
            for row in section["rows"]:
                named = next((name for name in row["cells"] if name), None)
                if named is None:
                    continue
                key = named.rpartition("/")[0]
                places[key] = len(rows)
                group = {"group": row["group"]} if row["group"] else {}
                model = models.number_of(section["title"])
                rows.append({"key": key, "label": row["label"], **group, "model": model})
    cells: list[dict[str, Any]] = [{} for _ in rows]
    for cell in payload["cells"]:
        key, _, column = cell["id"].rpartition("/")
        entry = {name: cell[name] for name in _PLAIN if cell[name] is not None}
        if cell["status"] == "missing":
            del entry["text"]
        if cell["status"] != "measured":
            entry["status"] = cell["status"]
        if cell["limited"] and (cell["n"] is None or cell["total"] is None):
            entry["limited"] = True
        for name in _SENTENCES:
            if cell[name]:
                entry[name] = texts.number_of(cell[name])
        difference = difference_text(cell)
        if difference is not None:
            entry["difference"] = difference
        if cell["verdict"]:
            entry["verdict"] = [cell["verdict"]["word"], texts.number_of(cell["verdict"]["rule"])]
        if cell["mark"]:
            entry["mark"] = cell["mark"]
        if cell["source"]:
            pointer = cell["source"]["pointer"]
            source = sources.number_of([cell["source"]["path"], cell["source"]["sha256"]])
            entry["source"] = [source, *([pointer] if pointer != USUAL_POINTER else [])]
        if cell["variant"] is not None:
            folder = cell["variant"]
            entry["variant"] = variants.number_of({"folder": folder, **payload["variants"][folder]})
        if cell["parts"]:
            entry["parts"] = [_part(part, key, places) for part in cell["parts"]]
        if cell["comparisons"]:
            entry["comparisons"] = [
                {
                    "cell": other["cell"],
                    "label": other["label"],
                    "share": other["share"]["text"],
                    "loss": other["log_perplexity"]["text"],
                }
                for other in cell["comparisons"]
            ]
        for name in _VERSUS:
            if versus := cell[name]:
                other_key, _, other_column = versus["cell"].rpartition("/")
                entry[name] = [
                    places[other_key],
                    texts.number_of(versus["label"]),
                    versus["text"],
                    versus["test"],
                    versus["told_apart"],
                    *([other_column] if other_column != column else []),
                ]
        cells[places[key]][column] = entry
    scores = payload["scores"]
    roots = {path for path, _ in sources.entries}
    # A score file states its settings itself.
    lineage = lineage_chains(payload["artifacts"], roots, roots - scores.keys())
    files = {file["path"]: number for number, file in enumerate(lineage["files"])}
    described = [
        {
            **({"file": files[path]} if path in files else {"path": path, "sha256": digest}),
            **({"settings": settings.number_of(scores[path])} if path in scores else {}),
        }
        for path, digest in sources.entries
    ]
    return {
        "columns": {table["id"]: _columns(table) for table in payload["tables"]},
        "models": models.entries,
        "rows": rows,
        "cells": cells,
        "texts": texts.entries,
        "sources": described,
        "variants": variants.entries,
        "settings": settings.entries,
        "figures": {
            figure["id"]: figure_csv(payload, figure["id"]) for figure in payload["figures"]
        },
        "lineage": lineage,
        "dense": {
            f"{table['id']}/{section['model']}": section["rows"][0]["id"]
            for table in payload["tables"]
            for section in table["sections"]
            if section["n"] == 0 and section["rows"]
        },
        "profile_option": profile_option(payload["run"]["profile"], payload["run"]["overrides"]),
    }


def _columns(table: Mapping[str, Any]) -> dict[str, Any]:
    titles = column_titles(table["columns"])
    return {
        column["id"]: {
            "title": titles[column["id"]],
            "unit": column["unit"],
            **(
                {"higher_is_better": column["higher_is_better"]}
                if column["higher_is_better"] is not None
                else {}
            ),
        }
        for column in table["columns"]
    }


def _part(part: str, key: str, places: Mapping[str, int]) -> str:
    """Return the column of a part, behind the number of its row and a slash if that is another."""
    part_key, _, column = part.rpartition("/")
    return column if part_key == key else f"{places[part_key]}/{column}"


def column_titles(columns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return each column's title, with its group where another column has the same one."""
    repeated = Counter(column["title"] for column in columns)
    return {
        column["id"]: f"{column['title']} ({column['group']})"
        if repeated[column["title"]] > 1 and column["group"]
        else column["title"]
        for column in columns
    }


def difference_text(cell: Mapping[str, Any]) -> str | int | None:
    """Return the difference from the printed value, with its standard error where there is one.

    Numbers of layers stay numbers.
    """
    difference: float | int | None = cell["difference"]
    if not isinstance(difference, float):
        return difference
    error = cell["difference_stderr"]
    return f"{difference:+.2f}" + (f", standard error {error:.2f}" if error is not None else "")
