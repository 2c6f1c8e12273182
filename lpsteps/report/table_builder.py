"""Builds one table: its sections and rows, and all of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lpsteps.errors import LpstepsError
from lpsteps.evaluation.score import Score
from lpsteps.report.beside_published import beside_published
from lpsteps.report.cells import Cell, Source
from lpsteps.report.curves import thinned_curve
from lpsteps.report.definitions import Column, Row
from lpsteps.report.derived_cells import derived_cell
from lpsteps.report.formats import format_layers
from lpsteps.report.measured_cells import measured_cell
from lpsteps.report.printed_protocol import other_quantity
from lpsteps.report.published import Key, PublishedCell
from lpsteps.report.row_comparisons import compare_rows, mark_best
from lpsteps.report.row_evidence import RowEvidence
from lpsteps.report.share_cells import share_cell


@dataclass(frozen=True)
class TableBuilder:
    """Builds one table; ``cells`` fills up in display order.

    Attributes:
        behind: What stands behind the table's rows.
        printed: The printed cells of the table.
        index: All printed cells, by the configuration that they are of.
        digests: SHA-256 of each file of printed cells, by path.
        cells: The table's cells, by id.
    """

    behind: RowEvidence
    printed: Sequence[PublishedCell]
    index: Mapping[Key, PublishedCell]
    digests: Mapping[str, str]
    cells: dict[str, Cell] = field(default_factory=dict)

    def build(self) -> dict[str, Any]:
        """Return the table without its cells, which are then in ``self.cells``.

        Raises:
            LpstepsError: Two cells would get the same id, or a score has another unit than its
                column.
        """
        definition = self.behind.definition
        sections = []
        levels = self.behind.spec.tables.get(definition.id, {})
        printed_models = dict.fromkeys(cell.model for cell in self.printed)
        for model in [*levels, *(name for name in printed_models if name not in levels)]:
            measured_levels = [0, *levels[model]] if model in levels else []
            printed_levels = dict.fromkeys(
                cell.n
                for cell in self.printed
                if cell.model == model and cell.n not in measured_levels
            )
            sections += [self._measured_section(model, n) for n in measured_levels]
            sections += [self._published_section(model, n) for n in printed_levels]
        return {
            "id": definition.id,
            "number": definition.number,
            "title": definition.title,
            "caption": definition.caption,
            "columns": [
                {
                    "id": column.id,
                    "title": column.title,
                    "unit": column.unit,
                    "group": column.group,
                    "higher_is_better": column.higher_is_better,
                    "shown": column.shown,
                }
                for column in definition.columns
            ],
            "glance": list(definition.glance),
            "figure": self._figure(),
            "curves": [
                curves
                for model, counts in levels.items()
                for n in counts
                if (curves := self._curves(model, n)) is not None
            ],
            "sections": [section for section in sections if section["rows"]],
        }

    def _figure(self) -> dict[str, Any] | None:
        figure = self.behind.definition.figure
        if figure is None:
            return None
        return {
            "rows": [{"id": row, "label": label} for row, label in figure.rows.items()],
            "x": figure.x.model_dump() if figure.x else None,
            "panels": [panel.model_dump() for panel in figure.panels],
        }

    def _curves(self, model: str, n: int) -> dict[str, Any] | None:
        """Return the training curves of one model and level, None where there are none."""
        definition = self.behind.definition
        lines = []
        rows = definition.curves.rows if definition.curves else {}
        for style, (name, label) in enumerate(rows.items(), start=1):
            row = definition.row(name)
            facts = self.behind.distillation(row)
            sourced = self.behind.curve(row, model, n)
            if facts is None or sourced is None:
                continue
            lines.append(
                {
                    "row": name,
                    "label": label,
                    "style": style,
                    "objective": facts.objective,
                    "tokens": sourced.content.tokens,
                    "source": {"path": sourced.path, "sha256": sourced.sha256},
                    **thinned_curve(sourced.content),
                }
            )
        return {"model": model, "n": n, "lines": lines} if lines else None

    def _measured_section(self, model: str, n: int) -> dict[str, Any]:
        behind, definition = self.behind, self.behind.definition
        facts = behind.spec.models[model]
        dense = definition.dense_row
        unpruned = (*([dense] if dense else []), *definition.overhead_rows)
        rows = definition.pruned_rows if n else unpruned
        for row in rows:
            self._add_row(row, model, n)
        if n:
            mark_best(behind, self.cells, rows, model, n)
            compare_rows(behind, self.cells, rows, model, n)
        matched = set[PublishedCell]()
        for row in rows:
            for column in definition.columns:
                found = self._printed(row, column, model, n)
                if found is not None:
                    matched.add(found)
        rest = [
            cell
            for cell in self.printed
            if (cell.model, cell.n) == (model, n) and cell not in matched
        ]
        return {
            "model": model,
            "title": facts.title,
            "n": n,
            "n_layers": facts.n_layers,
            "kind": "measured",
            "rows": [
                {
                    "id": row.id,
                    "label": row.label,
                    "kind": "measured",
                    "group": row.group,
                    "note": behind.note(row, rows, model, n),
                    "cells": [
                        behind.cell_id(model, n, row.id, column.id) for column in definition.columns
                    ],
                }
                for row in rows
            ]
            + self._published_rows(rest),
        }

    def _published_section(self, model: str, n: int) -> dict[str, Any]:
        printed = [cell for cell in self.printed if (cell.model, cell.n) == (model, n)]
        return {
            "model": model,
            "title": printed[0].model_title,
            "n": n,
            "n_layers": printed[0].n_layers,
            "kind": "published",
            "rows": self._published_rows(printed),
        }

    def _published_rows(self, printed: Sequence[PublishedCell]) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, PublishedCell]] = {}
        for cell in printed:
            rows.setdefault(cell.row, {})[cell.column] = cell
        for cell in printed:
            self._add(self._published_cell(cell))
        return [
            {
                "id": row,
                "label": next(iter(found.values())).label,
                "kind": "published",
                "group": "",
                "note": None,
                "cells": [
                    self.behind.cell_id(found[column.id].model, found[column.id].n, row, column.id)
                    if column.id in found
                    else None
                    for column in self.behind.definition.columns
                ],
            }
            for row, found in rows.items()
        ]

    def _published_cell(self, printed: PublishedCell) -> Cell:
        layers = printed.layers
        value = list(layers) if layers is not None else printed.words or printed.value
        text = format_layers(layers) if layers is not None else printed.text
        return Cell(
            id=self.behind.cell_id(printed.model, printed.n, printed.row, printed.column),
            table=printed.table,
            row=printed.row,
            column=printed.column,
            model=printed.model,
            n_pruned=printed.n,
            status="published",
            value=value,
            text=text,
            source=Source(printed.path, f"row={printed.line}", self.digests[printed.path]),
            published=value,
            published_text=text,
            published_note=printed.note or None,
        )

    def _add(self, cell: Cell) -> None:
        if cell.id in self.cells:
            raise LpstepsError(
                f"{cell.id}: two cells of the table have this id; rename one of the rows"
            )
        self.cells[cell.id] = cell

    def _printed(self, row: Row, column: Column, model: str, n: int) -> PublishedCell | None:
        if row.overhead is not None:
            place = (model, n, row.id, column.id)
            cells = (c for c in self.printed if (c.model, c.n, c.row, c.column) == place)
            return next(cells, None)
        variant = (n, row.selection, row.recovery, row.calibration)
        return self.index.get((self.behind.definition.id, model, *variant, column.id))

    def _add_row(self, row: Row, model: str, n: int) -> None:
        behind, columns = self.behind, self.behind.definition.columns
        # Derived columns look up the scores of their own row and of the dense row.
        built = {
            column.id: measured_cell(behind, row, column, model, n)
            for column in columns
            if not column.is_derived
        }
        for column in columns:
            if column.kind == "share_closed":
                built[column.id] = share_cell(behind, row, column, model, n)
            elif column.is_derived:
                built[column.id] = derived_cell(behind, row, column, model, n, built, self.cells)
        for column in columns:
            printed = self._printed(row, column, model, n)
            cell = built[column.id]
            trained = None
            if column.higher_is_better is not None and cell.status == "measured":
                trained = behind.training_amount(row, model, n)
            other = None
            if printed is not None and cell.status == "measured":
                scores = self._scores(cell, built)
                other = other_quantity(column, scores, behind.other_text(row))
            self._add(beside_published(cell, column, printed, trained, other))

    def _scores(self, cell: Cell, built: Mapping[str, Cell]) -> list[Score]:
        """Return what a number is made from, of its own row."""
        names = [part.rpartition("/")[2] for part in cell.parts] or [cell.column]
        return [
            found.content
            for name in names
            if (part := built[name]).variant is not None
            and (found := self.behind.evidence.scores.get((part.variant, name))) is not None
        ]
