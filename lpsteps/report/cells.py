"""From evidence and table definitions to the cells of all tables.

The payload built here is the product: the page and the CSV files are views of it. A cell is a
number only when everything it rests on is there and has no known problem; otherwise it is missing
and says why. Rounding happens in ``text`` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from lpsteps.distillation.teacher_store import bytes_per_target
from lpsteps.errors import LpstepsError, nearest
from lpsteps.patches import OperationKind
from lpsteps.plan import Plan
from lpsteps.report.aggregates import (
    Estimate,
    mean,
    removed_ratio,
    retained_performance,
    weighted_mean,
)
from lpsteps.report.bootstrap import RESAMPLES
from lpsteps.report.costs import stored_target_bytes
from lpsteps.report.curves import TrainingCurve, thinned_curve
from lpsteps.report.definitions import (
    MODEL_FACTS,
    NO_RECOVERY,
    OVERHEADS,
    Column,
    Row,
    TableDefinition,
)
from lpsteps.report.evidence import (
    BuildSpec,
    DistillationFacts,
    Evidence,
    ModelFacts,
    PatchFacts,
    PlanKey,
    RecoveryFacts,
    Score,
    Sourced,
)
from lpsteps.report.formats import (
    format_bytes,
    format_count,
    format_foldable,
    format_interval,
    format_layers,
    format_share,
    format_training,
    format_value,
)
from lpsteps.report.model_facts import model_fact
from lpsteps.report.overheads import UNJUDGED, overhead_fact
from lpsteps.report.published import Key, PublishedCell, by_variant
from lpsteps.report.shares import Bounded, Share, measure_share, obstacle
from lpsteps.report.significance import Entry, Finding, Test, compare_column, describe
from lpsteps.report.verdicts import Verdict, judge, judge_layers, summarise
from lpsteps.width_pruning import WidthManifest

SCHEMA = 5

# Columns that a distilled row fills from its training curve.
_FROM_CURVES = ("distilled_windows", "distilled_tokens", "calibration_tokens", "target_storage")

# Columns whose rows are compared with each other on the documents and windows behind them.
_COMPARED = ("benchmark", "mean", "weighted_mean", "retained")

MISSING_TEXT = "\N{EN DASH}"


@dataclass(frozen=True)
class Source:
    """Where a value stands: file, JSON pointer (``row=N`` in a CSV file), hash of the file."""

    path: str
    pointer: str
    sha256: str


@dataclass(frozen=True)
class Contrast:
    """A value minus that of another row, the 95 % interval of the difference, both as text."""

    value: float
    interval: list[float] | None
    text: str


@dataclass(frozen=True)
class Comparison:
    """How a row differs from another one, resampled together.

    Attributes:
        cell: Id of the other row's cell.
        label: What the other row is.
        share: Difference of the shares closed, in percentage points.
        log_perplexity: Difference of the log-perplexities, as a mean over the corpora.
    """

    cell: str
    label: str
    share: Contrast
    log_perplexity: Contrast


@dataclass(frozen=True)
class Versus:
    """A number beside that of another row, on the same documents or windows.

    Attributes:
        cell: Id of the other row's cell.
        label: What the other row is.
        difference: Own value minus the other's.
        interval: 95 % interval of the difference.
        p: Two-sided p-value of no difference.
        adjusted: The same, corrected for all comparisons of the kind in its column and section.
        family: How many these are.
        test: How ``p`` was found.
        told_apart: Whether the rows differ at the 5 % level after the correction.
        text: Difference, interval and p-values as displayed.
    """

    cell: str
    label: str
    difference: float
    interval: list[float]
    p: float
    adjusted: float
    family: int
    test: Test
    told_apart: bool
    text: str


@dataclass(frozen=True)
class Cell:
    """One cell of one table.

    Attributes:
        id: ``table/model/n<removed layers>/row/column``; the same from run to run.
        variant: Folder of the variant, None for printed cells and undefined variants.
        value: Exact value: a list of layers in removal order in columns of layers, a whole number
            in columns of costs and counts, true or false where the text is a word, words in columns
            of text.
        text: The value as displayed.
        stderr: Standard error in the unit of the value.
        interval: 95 % interval of the value, lower and upper bound, where it was resampled.
        interval_text: The interval as displayed.
        comparisons: How the value differs from those of other rows.
        n: Documents or windows, None for derived values.
        total: Documents or windows of the split, where known.
        limited: Whether the value rests on fewer than all documents.
        source: Where the value stands, None for derived values.
        parts: Ids of the cells that a derived value was computed from.
        benchmarks_used: How many benchmarks a derived value is over.
        benchmarks_wanted: How many the paper takes it over.
        published: The printed number for the same configuration, layers or words in such columns.
        difference: Value minus published. In columns of layers: how many of the removed layers
            the paper keeps.
        difference_stderr: Standard error of the difference, where a sample moves the value.
        verdict: Whether the value reproduces the printed one.
        unjudged: Why there is no verdict on a measured value beside a printed one.
        versus_best: How the value differs from the best one of its column and section.
        versus_unrepaired: How it differs from that of the same cut without repair.
        reason: Why the cell is missing.
        note: What else a reader of the number has to know.
        mark: ``best`` or ``second`` among the measured pruned rows of the section.
    """

    id: str
    table: str
    row: str
    column: str
    model: str
    n_pruned: int
    status: Literal["measured", "published", "missing"]
    variant: str | None = None
    value: float | int | bool | str | list[int] | None = None
    text: str = MISSING_TEXT
    stderr: float | None = None
    interval: list[float] | None = None
    interval_text: str | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    n: int | None = None
    total: int | None = None
    limited: bool = False
    source: Source | None = None
    parts: list[str] = field(default_factory=list)
    benchmarks_used: int | None = None
    benchmarks_wanted: int | None = None
    published: float | str | list[int] | None = None
    published_text: str | None = None
    published_note: str | None = None
    difference: float | int | None = None
    difference_stderr: float | None = None
    verdict: Verdict | None = None
    unjudged: str | None = None
    versus_best: Versus | None = None
    versus_unrepaired: Versus | None = None
    reason: str | None = None
    note: str | None = None
    mark: Literal["best", "second"] | None = None


def build_payload(
    spec: BuildSpec,
    definitions: Sequence[TableDefinition],
    published: Iterable[PublishedCell],
    published_digests: Mapping[str, str],
    evidence: Evidence,
) -> dict[str, Any]:
    """Build the content of ``tables.json``.

    Args:
        spec: Settings of the step.
        definitions: The tables to build, in display order.
        published: Printed cells; those of other tables are ignored.
        published_digests: SHA-256 of each file of printed cells, by path.
        evidence: The measured inputs.

    Raises:
        LpstepsError: Two cells would get the same id, or a score has another unit than its column.
    """
    printed = list(published)
    index = by_variant(printed)
    cells: dict[str, Cell] = {}
    listed: list[dict[str, Any]] = []
    tables = []
    for definition in definitions:
        _check_columns(definition, printed)
        builder = _TableBuilder(
            definition,
            spec,
            evidence,
            [cell for cell in printed if cell.table == definition.id],
            index,
            published_digests,
        )
        table = builder.build()
        own = [asdict(cell) for cell in builder.cells.values()]
        tables.append({**table, "summary": summarise(own)})
        listed += own
        cells.update(builder.cells)
    counts = Counter(cell.status for cell in cells.values())
    used = {cell.variant for cell in cells.values() if cell.variant is not None}
    return {
        "schema": SCHEMA,
        "run": {
            "profile": spec.profile,
            "models": [
                {"id": model, **facts.model_dump()} for model, facts in sorted(spec.models.items())
            ],
            "counts": {name: counts[name] for name in ("measured", "published", "missing")},
            "limits": _sample_limits(evidence),
            "summary": summarise(listed),
        },
        "tables": tables,
        "cells": listed,
        "variants": {folder: _describe_variant(folder, spec, evidence) for folder in sorted(used)},
        "scores": {
            score.path: score.content.model_dump(include={"metric", "protocol", "settings"})
            for _, score in sorted(evidence.scores.items())
        },
    }


def _check_columns(definition: TableDefinition, printed: Iterable[PublishedCell]) -> None:
    names = {column.id for column in definition.columns}
    for cell in printed:
        if cell.table == definition.id and cell.column not in names:
            where = f"{cell.path}: line {cell.line}"
            raise LpstepsError(f"{where}: column '{cell.column}': {nearest(cell.column, names)}")


def _sample_limits(evidence: Evidence) -> list[dict[str, Any]]:
    """List how many documents or windows each benchmark was scored on, once per distinct case."""
    cases = {
        (score.benchmark, score.protocol, score.n, score.total, score.limited)
        for score in (sourced.content for sourced in evidence.scores.values())
    }
    names = ("benchmark", "protocol", "n", "total", "limited")
    ordered = sorted(cases, key=lambda case: (case[0], case[2], case[3] or 0))
    return [dict(zip(names, case, strict=True)) for case in ordered]


def _describe_variant(folder: str, spec: BuildSpec, evidence: Evidence) -> dict[str, Any]:
    variant = spec.variants[folder]
    plan = evidence.plans.get((variant.model, variant.calibration, variant.selection, variant.n))
    patch = evidence.patches.get(folder)
    width = evidence.widths.get(folder)
    is_width = variant.selection in spec.widths
    is_cut = variant.n > 0 and not is_width
    return {
        "model": variant.model,
        "n": variant.n,
        "n_layers": spec.models[variant.model].n_layers,
        "calibration": variant.calibration if variant.n else None,
        "selection": variant.selection if is_cut else None,
        "recovery": variant.recovery if is_cut else None,
        "width": variant.selection if is_width else None,
        "width_manifest": width.path if width else None,
        "plan": plan.path if plan else None,
        "layers": list(plan.content.layers) if plan else [],
        "order": list(plan.content.order) if plan else [],
        "gaps": [list(gap) for gap in plan.content.gaps] if plan else [],
        "patch": patch.path if patch else None,
        "added_parameters": patch.content.parameters if patch else 0,
    }


@dataclass(frozen=True)
class _Trained:
    """How a row was distilled: in words, and on how many tokens here and in the paper.

    Attributes:
        note: In words.
        tokens: Tokens read here in all passes, and in the first one; None where not known.
        printed_tokens: Tokens that the paper's row reads in its only pass, None where not known.
    """

    note: str
    tokens: tuple[int, int] | None
    printed_tokens: int | None

    @property
    def as_printed(self) -> bool:
        """Whether it read as many tokens as the paper's row did, and in one pass as well."""
        printed = self.printed_tokens
        return printed is not None and self.tokens == (printed, printed)

    @property
    def beside_printed(self) -> str:
        """What to say beside a printed value that was trained otherwise."""
        if self.as_printed:
            return ""
        theirs = self.printed_tokens
        known = (
            f"on {format_count(theirs)} in one pass"
            if theirs
            else "on a number that we do not know"
        )
        return f"the paper's row was trained {known}, so no difference is taken"


@dataclass(frozen=True)
class _TableBuilder:
    """Builds one table; ``cells`` fills up in display order."""

    definition: TableDefinition
    spec: BuildSpec
    evidence: Evidence
    printed: Sequence[PublishedCell]
    index: Mapping[Key, PublishedCell]
    digests: Mapping[str, str]
    cells: dict[str, Cell] = field(default_factory=dict)

    def build(self) -> dict[str, Any]:
        """Return the table without its cells, which are then in ``self.cells``."""
        sections = []
        levels = self.spec.tables.get(self.definition.id, {})
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
            "id": self.definition.id,
            "number": self.definition.number,
            "title": self.definition.title,
            "caption": self.definition.caption,
            "columns": [
                {
                    "id": column.id,
                    "title": column.title,
                    "unit": column.unit,
                    "group": column.group,
                    "higher_is_better": column.higher_is_better,
                    "shown": column.shown,
                }
                for column in self.definition.columns
            ],
            "glance": list(self.definition.glance),
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
        figure = self.definition.figure
        if figure is None:
            return None
        return {
            "rows": [{"id": row, "label": label} for row, label in figure.rows.items()],
            "x": figure.x.model_dump() if figure.x else None,
            "panels": [panel.model_dump() for panel in figure.panels],
        }

    def _curves(self, model: str, n: int) -> dict[str, Any] | None:
        """Return the training curves of one model and level, None where there are none."""
        lines = []
        rows = self.definition.curves.rows if self.definition.curves else {}
        for style, (name, label) in enumerate(rows.items(), start=1):
            row = self.definition.row(name)
            facts = self._distillation(row)
            sourced = self._curve(row, model, n)
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
        facts = self.spec.models[model]
        dense = self.definition.dense_row
        unpruned = (*([dense] if dense else []), *self.definition.overhead_rows)
        rows = self.definition.pruned_rows if n else unpruned
        for row in rows:
            self._add_row(row, model, n)
        if n:
            self._mark_best(rows, model, n)
            self._compare_rows(rows, model, n)
        matched = set[PublishedCell]()
        for row in rows:
            for column in self.definition.columns:
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
                    "note": self._row_note(row, rows, model, n),
                    "cells": [
                        self._id(model, n, row.id, column.id) for column in self.definition.columns
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
                    self._id(found[column.id].model, found[column.id].n, row, column.id)
                    if column.id in found
                    else None
                    for column in self.definition.columns
                ],
            }
            for row, found in rows.items()
        ]

    def _published_cell(self, printed: PublishedCell) -> Cell:
        layers = printed.layers
        value = list(layers) if layers is not None else printed.words or printed.value
        text = format_layers(layers) if layers is not None else printed.text
        return Cell(
            id=self._id(printed.model, printed.n, printed.row, printed.column),
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

    def _id(self, model: str, n: int, row: str, column: str) -> str:
        return f"{self.definition.id}/{model}/n{n}/{row}/{column}"

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
        return self.index.get((self.definition.id, model, *variant, column.id))

    def _add_row(self, row: Row, model: str, n: int) -> None:
        # Derived columns look up the scores of their own row and of the dense row.
        built = {
            column.id: self._measured_cell(row, column, model, n)
            for column in self.definition.columns
            if not column.is_derived
        }
        for column in self.definition.columns:
            if column.kind == "share_closed":
                built[column.id] = self._share_cell(row, column, model, n)
            elif column.is_derived:
                built[column.id] = self._derived_cell(row, column, model, n, built)
        for column in self.definition.columns:
            printed = self._printed(row, column, model, n)
            cell = built[column.id]
            trained = None
            if column.higher_is_better is not None and cell.status == "measured":
                trained = self._trained(row, model, n)
            self._add(_beside_published(cell, column, printed, trained))

    def _folder(self, row: Row, model: str, n: int) -> str | None:
        """Return where the variant of a row lies, None if the profile does not build it."""
        if row.overhead is not None:
            return None
        if row.selection is None:
            return self.evidence.folders.get((model, n, None, None, None))
        calibration = row.calibration or self.spec.calibration
        return self.evidence.folders.get((model, n, calibration, row.selection, row.recovery))

    def _plan_key(self, row: Row, model: str, n: int) -> PlanKey:
        return (model, row.calibration or self.spec.calibration, row.selection or "", n)

    def _distillation(self, row: Row) -> DistillationFacts | None:
        facts = self.spec.recovery(row.recovery, row.calibration) if row.selection else None
        return facts.distillation if facts else None

    def _curve(self, row: Row, model: str, n: int) -> Sourced[TrainingCurve] | None:
        return self.evidence.curves.get(self._folder(row, model, n) or "")

    def _trained(self, row: Row, model: str, n: int) -> _Trained | None:
        """Say how a row was distilled, None if it was not."""
        facts = self._distillation(row)
        if facts is None:
            return None
        sourced = self._curve(row, model, n)
        if sourced is None:
            return _Trained("how long it was trained is not known", None, row.printed_tokens)
        curve = sourced.content
        windows = curve.first_pass // facts.length
        kept, _ = curve.kept
        note = (
            f"distilled on {format_count(curve.tokens)} tokens, {format_count(windows)} windows of "
            f"{format_count(facts.length)}; the state after {format_count(kept)} is kept"
        )
        return _Trained(note, (curve.tokens, curve.first_pass), row.printed_tokens)

    def _blank(self, row: Row, column: Column, model: str, n: int) -> Cell:
        return Cell(
            id=self._id(model, n, row.id, column.id),
            table=self.definition.id,
            row=row.id,
            column=column.id,
            model=model,
            n_pruned=n,
            status="missing",
            variant=self._folder(row, model, n),
        )

    def _row_problem(self, row: Row, blank: Cell) -> str | None:
        """Say why nothing at all can be shown for a row."""
        if row.selection in self.spec.widths:
            levels = self.spec.widths[row.selection].unsuited.get(blank.model, {})
            manifest = f"{blank.variant}/width.manifest.json"
            return levels.get(blank.n_pruned) or self.evidence.problems.get(manifest)
        if row.selection is not None:
            if row.selection not in self.spec.selections:
                return row.missing or f"no selection '{row.selection}' is configured"
            if row.recovery not in self.spec.recoveries:
                return row.missing or f"no recovery '{row.recovery}' is configured"
            if row.calibration in self.spec.unavailable_calibrations:
                return self.spec.unavailable_calibrations[row.calibration]
            facts = self.spec.recovery(row.recovery, row.calibration)
            if facts is None:
                return row.missing or f"no calibration '{row.calibration}' is configured"
            if blank.n_pruned in facts.unsuited:
                return facts.unsuited[blank.n_pruned]
        plan_key = self._plan_key(row, blank.model, blank.n_pruned)
        plan = f"{self.evidence.plan_folders.get(plan_key)}/plan.json"
        patch = f"{blank.variant}/patch.manifest.json"
        problems = self.evidence.problems
        return problems.get(plan) or problems.get(patch)

    def _plan(self, row: Row, model: str, n: int) -> Sourced[Plan] | None:
        return self.evidence.plans.get(self._plan_key(row, model, n))

    def _measured_cell(self, row: Row, column: Column, model: str, n: int) -> Cell:
        blank = self._blank(row, column, model, n)
        problem = self._row_problem(row, blank)
        if problem is not None:
            return replace(blank, reason=problem)
        if row.selection in self.spec.widths and column.kind not in ("benchmark", "ratio"):
            return replace(blank, reason="removes heads and channels: there is no cut to repair")
        if column.kind == "layers":
            return self._layers_cell(blank, row)
        if column.kind in MODEL_FACTS:
            return self._model_cell(blank, column)
        if column.kind in OVERHEADS:
            return self._overhead_cell(blank, row, column)
        if blank.variant is None:
            return replace(blank, reason="this profile does not build the variant")
        if column.kind == "benchmark":
            return self._score_cell(blank, column, blank.variant)
        if column.kind == "ratio":
            return self._ratio_cell(blank, row, blank.variant)
        facts = self._distillation(row)
        if column.kind in ("top_k", "target_storage") and facts and facts.why_no_outcomes:
            return replace(blank, reason=facts.why_no_outcomes)
        if column.kind == "top_k" and facts is None:
            return replace(blank, reason="nothing is distilled")
        if facts and column.kind in _FROM_CURVES:
            return self._distilled_cell(blank, row, column, facts)
        return self._cost_cell(blank, row, column, blank.variant)

    def _score_cell(self, blank: Cell, column: Column, variant: str) -> Cell:
        problem = self.evidence.problems.get(f"{variant}/scores/{column.id}.json")
        if problem is not None:
            return replace(blank, reason=problem)
        sourced = self.evidence.scores.get((variant, column.id))
        if sourced is None:
            return replace(blank, reason=self._why_not_scored(column.id))
        score = sourced.content
        if score.unit != column.unit:
            raise LpstepsError(
                f"{sourced.path}: unit: '{score.unit}': column '{column.id}' of "
                f"{self.definition.id} is in {column.unit}"
            )
        if score.value is None:
            return replace(blank, reason="the evaluation gave no finite number")
        return replace(
            blank,
            status="measured",
            value=score.value,
            text=format_value(score.value),
            stderr=score.stderr,
            n=score.n,
            total=score.total,
            limited=score.limited,
            source=Source(sourced.path, "/value", sourced.sha256),
        )

    def _why_not_scored(self, benchmark: str) -> str:
        if benchmark in self.spec.unavailable:
            return self.spec.unavailable[benchmark]
        if benchmark not in self.spec.benchmarks:
            return f"this profile does not score '{benchmark}'"
        return f"there is no score file for '{benchmark}'"

    def _layers_cell(self, blank: Cell, row: Row) -> Cell:
        plan = self._plan(row, blank.model, blank.n_pruned)
        if plan is None:
            return replace(blank, reason="there is no plan file")
        return replace(
            blank,
            status="measured",
            value=list(plan.content.order),
            text=format_layers(plan.content.order),
            source=Source(plan.path, "/order", plan.sha256),
        )

    def _model_cell(self, blank: Cell, column: Column) -> Cell:
        fact = model_fact(column.kind, self.spec.models[blank.model])
        if fact is None:
            return replace(blank, reason="a folder has no revision")
        return replace(
            blank, status="measured", value=fact.value, text=fact.text, note=fact.note or None
        )

    def _overhead_cell(self, blank: Cell, row: Row, column: Column) -> Cell:
        problem = self.evidence.problems.get(f"results/{blank.model}/overheads.json")
        sourced = self.evidence.overheads.get(blank.model)
        if problem is not None or sourced is None:
            return replace(blank, reason=problem or "there is no file of costs")
        fact = overhead_fact(column.kind, row.overhead or "", sourced.content)
        if isinstance(fact, str):
            return replace(blank, reason=fact)
        return replace(
            blank,
            status="measured",
            value=fact.value,
            text=fact.text,
            source=Source(sourced.path, fact.pointer, sourced.sha256),
            note=fact.note,
        )

    def _ratio_cell(self, blank: Cell, row: Row, variant: str) -> Cell:
        if blank.n_pruned == 0:
            note = "by definition: nothing is removed"
            return replace(blank, status="measured", value=0.0, text=format_value(0.0), note=note)
        if row.selection in self.spec.widths:
            return self._width_ratio_cell(blank, variant)
        plan = self._plan(row, blank.model, blank.n_pruned)
        patch = self.evidence.patches.get(variant)
        if plan is None:
            return replace(blank, reason="there is no plan file")
        if patch is None and row.recovery != NO_RECOVERY:
            return replace(blank, reason="there is no patch manifest")
        facts = self.spec.models[blank.model]
        removed = len(plan.content.layers)
        added = patch.content.parameters if patch else 0
        note = f"{removed} x {facts.layer_parameters} - {added} of {facts.parameters} parameters"
        kept = self._kept(row, blank.model, blank.n_pruned)
        note = f"{note}; {kept}" if kept else note
        value = removed_ratio(removed, facts.layer_parameters, added, facts.parameters)
        return replace(
            blank,
            status="measured",
            value=value,
            text=format_value(value),
            source=Source(patch.path, "/parameters", patch.sha256)
            if patch
            else Source(plan.path, "/n", plan.sha256),
            note=note,
        )

    def _width_ratio_cell(self, blank: Cell, variant: str) -> Cell:
        width = self.evidence.widths.get(variant)
        if width is None:
            return replace(blank, reason="there is no manifest of the width pruning")
        removed, total = width.content.parameters_removed, self.spec.models[blank.model].parameters
        value = 100 * removed / total
        return replace(
            blank,
            status="measured",
            value=value,
            text=format_value(value),
            source=Source(width.path, "/parameters_removed", width.sha256),
            note=(
                f"{removed} of {total} parameters, counted from the shapes of the pruned layers; "
                f"{_width_lost(width.content, self.spec.models[blank.model].n_layers)}"
            ),
        )

    def _cost_cell(self, blank: Cell, row: Row, column: Column, variant: str) -> Cell:
        if blank.n_pruned == 0:
            nothing: bool | int = column.kind == "foldable" if column.unit == "answer" else 0
            return replace(
                blank,
                status="measured",
                value=nothing,
                text=_cost_text(column, nothing, ()),
                note="by definition: nothing is repaired",
            )
        patch = self.evidence.patches.get(variant)
        if patch is None:
            return replace(blank, reason="there is no patch manifest")
        recovery = self.spec.recovery(row.recovery, row.calibration)
        assert recovery is not None  # Or the row would have a problem.
        distilled = recovery.distillation
        facts = self.spec.models[blank.model]
        pointer, value = {
            "parameters_added": ("/parameters", patch.content.parameters),
            "flops_added": ("/tensors", patch.content.flops(facts.hidden_size)),
            "foldable": ("/foldable", patch.content.foldable),
            "trained": ("/recovery", bool(recovery.training or recovery.distillation)),
            "calibration_tokens": ("/recovery", recovery.calibration_tokens or 0),
            "distilled_windows": ("/recovery", 0),
            "distilled_tokens": ("/recovery", 0),
            "target_storage": ("/recovery", 0),
            "top_k": ("/recovery", (distilled.top_k if distilled else None) or 0),
        }[column.kind]
        return replace(
            blank,
            status="measured",
            value=value,
            text=_cost_text(column, value, patch.content.kinds),
            source=Source(patch.path, pointer, patch.sha256),
            note=_cost_note(column, patch.content, facts, recovery),
        )

    def _distilled_cell(
        self, blank: Cell, row: Row, column: Column, facts: DistillationFacts
    ) -> Cell:
        sourced = self._curve(row, blank.model, blank.n_pruned)
        if sourced is None:
            problem = self.evidence.problems.get(f"{blank.variant}/training.parquet")
            return replace(blank, reason=problem or "there is no training curve")
        read = sourced.content.first_pass
        untied, tied = self.spec.models[blank.model].vocabularies
        if column.kind == "target_storage" and bytes_per_target(untied) != bytes_per_target(tied):
            return replace(blank, reason="the sizes of the model leave open how many tokens it has")
        value = {
            "distilled_windows": read // facts.length,
            "distilled_tokens": sourced.content.tokens,
            "calibration_tokens": read,
            "target_storage": stored_target_bytes(read, facts.top_k or 0, tied),
        }[column.kind]
        return replace(
            blank,
            status="measured",
            value=value,
            text=_cost_text(column, value, ()),
            source=Source(sourced.path, "column=tokens", sourced.sha256),
            note=self._distilled_note(column, row, facts, read, bytes_per_target(tied)),
        )

    def _distilled_note(
        self,
        column: Column,
        row: Row,
        facts: DistillationFacts,
        read: int,
        bytes_per_outcome: float,
    ) -> str:
        """Say what stands behind a number of a distillation."""
        count = format_count(read // facts.length)
        windows = f"{count} windows of {format_count(facts.length)} tokens"
        if column.kind == "target_storage":
            stored = {
                "offline": "stored in this run",
                "fused": "not stored in this run, which makes them on the way",
            }[facts.mode]
            return (
                f"{windows}, {facts.top_k} outcomes at each, {bytes_per_outcome:g} bytes an "
                f"outcome; {stored}"
            )
        passes = f"{facts.epochs} pass{'es' if facts.epochs > 1 else ''}"
        note = f"{windows}, {passes} at most, from the patch of {facts.start}"
        start = self.spec.recovery(facts.start, row.calibration)
        if column.kind != "calibration_tokens" or start is None or start.calibration_tokens == 0:
            return note
        own = start.calibration_tokens
        text = f"{format_count(own)} tokens" if own else "its whole text"
        return f"{note}, which reads {text} besides, not counted here"

    def _kept(self, row: Row, model: str, n: int) -> str | None:
        """Say how many of the layers to remove stay after all, retrained; None if all go."""
        patch = self.evidence.patches.get(self._folder(row, model, n) or "")
        if patch is None or not patch.content.restored:
            return None
        count = len(patch.content.restored)
        return f"keeps {count} retrained layer{'s' if count > 1 else ''}"

    def _share_cell(self, row: Row, column: Column, model: str, n: int) -> Cell:
        blank = self._blank(row, column, model, n)
        problem = self._row_problem(row, blank)
        names, uncovered = self._covered(column, model)
        if problem or uncovered:
            return replace(blank, reason=problem or uncovered)
        dense, pruned = self.definition.ends
        involved = [row] if row in (dense, pruned) else [row, pruned, dense]
        found = []
        for each in involved:
            scores, problem = self._perplexities(each, names, model, n)
            if problem is not None:
                return replace(blank, reason=problem)
            found.append(scores)
        cell = replace(
            blank,
            status="measured",
            limited=any(score.limited for scores in found for score in scores),
            parts=[
                self._id(model, n if each.selection else 0, each.id, name)
                for each in involved
                for name in names
            ],
            benchmarks_used=len(names),
            benchmarks_wanted=len(column.of),
        )
        if len(involved) == 1:
            value = 100.0 if row is dense else 0.0
            return replace(cell, value=value, text=format_share(value), note="by definition")
        own, without, whole = found
        problem = obstacle(whole, without, own)
        if problem is not None:
            return replace(blank, reason=problem)
        others = {}
        for name in column.against:
            scores, problem = self._perplexities(self.definition.row(name), names, model, n)
            if name != row.id and problem is None and obstacle(whole, without, scores) is None:
                others[name] = scores
        share = measure_share(whole, without, own, others)
        cell = _with_share(cell, share)
        comparisons = [
            Comparison(
                cell=self._id(model, n, name, column.id),
                label=self._label_beside(name, row),
                share=_contrast(difference.share, decimals=1),
                log_perplexity=_contrast(difference.log_perplexity, decimals=3),
            )
            for name, difference in share.differences.items()
        ]
        windows = ", ".join(str(score.n) for score in own)
        note = (
            f"{pruned.label} is 0, {dense.label} is 100 %; {windows} windows, "
            f"resampled {RESAMPLES} times"
        )
        return replace(cell, comparisons=comparisons, note=note)

    def _label_beside(self, name: str, row: Row) -> str:
        other = self.definition.row(name)
        return other.label if other.group == row.group else f"{other.label} ({other.group})"

    def _perplexities(
        self, row: Row, names: Sequence[str], model: str, n: int
    ) -> tuple[list[Score], str | None]:
        """Return the scores of a row, or why one of them is missing."""
        scores = []
        for name in names:
            column = self.definition.column(name)
            cell = self._measured_cell(row, column, model, n if row.selection else 0)
            if cell.variant is None or cell.status == "missing":
                return [], f"rests on {cell.id}, which is missing: {cell.reason}"
            scores.append(self.evidence.scores[cell.variant, name].content)
        return scores, None

    def _derived_cell(
        self, row: Row, column: Column, model: str, n: int, built: Mapping[str, Cell]
    ) -> Cell:
        blank = self._blank(row, column, model, n)
        problem = self._row_problem(row, blank)
        if problem is not None:
            return replace(blank, reason=problem)
        names, problem = self._covered(column, model)
        if problem is not None:
            return replace(blank, reason=problem)
        own = [built[name] for name in names]
        dense_row = self.definition.dense_row
        if column.kind != "retained" or row.selection is None or dense_row is None:
            dense = []
        else:
            dense = [self.cells[self._id(model, 0, dense_row.id, name)] for name in names]
        parts = own + dense
        for part in parts:
            if part.status == "missing":
                return replace(blank, reason=f"rests on {part.id}, which is missing: {part.reason}")
        note = None
        if column.kind == "mean":
            estimate = mean([_estimate(part) for part in own])
        elif column.kind == "weighted_mean":
            totals = [part.total for part in own if part.total is not None]
            if len(totals) < len(own):
                return replace(blank, reason="the sizes of the splits are not known")
            estimate = weighted_mean([_estimate(part) for part in own], totals)
            note = f"weighted by {', '.join(format_count(total) for total in totals)} documents"
        elif row.selection is None:
            estimate = Estimate(100.0)
            note = "by definition"
        else:
            zero = next((part for part in dense if part.value == 0), None)
            if zero is not None:
                return replace(blank, reason=f"pruned / dense is not defined: {zero.id} is 0")
            estimate = retained_performance(
                [_estimate(part) for part in own], [_estimate(part) for part in dense]
            )
        return replace(
            blank,
            status="measured",
            value=estimate.value,
            text=format_value(estimate.value),
            stderr=estimate.stderr,
            limited=any(part.limited for part in parts),
            parts=[part.id for part in parts],
            benchmarks_used=len(names),
            benchmarks_wanted=len(column.of),
            note=note,
        )

    def _covered(self, column: Column, model: str) -> tuple[list[str], str | None]:
        """Return the benchmarks of a derived column that the model was scored on, or a reason.

        The list is the same for all variants of a model, so that the rows stay comparable.
        """
        scored = {
            benchmark
            for folder, benchmark in self.evidence.scores
            if self.spec.variants[folder].model == model
        }
        names = [name for name in column.of if name in scored]
        absent = [name for name in column.of if name not in scored]
        if not names or (absent and not column.partial):
            titles = [c.title for c in self.definition.columns if c.id in absent]
            return [], f"needs {', '.join(titles)}: {self._why_not_scored(absent[0])}"
        return names, None

    def _row_note(self, row: Row, rows: Sequence[Row], model: str, n: int) -> str | None:
        notes = (self._same_layers(row, rows, model, n), self._kept(row, model, n))
        return ", ".join(filter(None, notes)) or None

    def _same_layers(self, row: Row, rows: Sequence[Row], model: str, n: int) -> str | None:
        """Name the selection of the first row above with the same layers and repair, if any."""
        layers = self._removed(row, model, n)
        if layers is None:
            return None
        for other in rows[: rows.index(row)]:
            repair = (other.recovery, other.calibration)
            if (
                repair == (row.recovery, row.calibration)
                and self._removed(other, model, n) == layers
            ):
                return f"same layers as {self.spec.selections[other.selection or '']}"
        return None

    def _removed(self, row: Row, model: str, n: int) -> tuple[int, ...] | None:
        plan = self._plan(row, model, n)
        return plan.content.layers if plan else None

    def _compare_rows(self, rows: Sequence[Row], model: str, n: int) -> None:
        """Put into each number how it differs from the best one, and from no repair."""
        contenders = [row.id for row in rows if self._kept(row, model, n) is None]
        bare: dict[tuple[int, ...] | None, str] = {}
        for row in rows:
            layers = self._removed(row, model, n)
            if row.recovery == NO_RECOVERY and layers is not None:
                bare.setdefault(layers, row.id)
        unrepaired = {
            row.id: bare[layers]
            for row in rows
            if row.recovery != NO_RECOVERY and (layers := self._removed(row, model, n)) in bare
        }
        for column in self.definition.columns:
            if column.kind not in _COMPARED or not column.shown:
                continue
            entries = {
                row.id: entry
                for row in rows
                if (entry := self._entry(self._id(model, n, row.id, column.id), column))
            }
            best, repair = compare_column(
                entries, contenders, unrepaired, column.higher_is_better is True
            )
            for row in rows:
                name = self._id(model, n, row.id, column.id)
                self.cells[name] = replace(
                    self.cells[name],
                    versus_best=self._versus(best.get(row.id), row, column, model, n),
                    versus_unrepaired=self._versus(repair.get(row.id), row, column, model, n),
                )

    def _entry(self, name: str, column: Column) -> Entry | None:
        """Return what stands behind a number, None if the cell is missing."""
        cell = self.cells[name]
        if not isinstance(cell.value, float):
            return None
        scores = []
        for part in [self.cells[part] for part in cell.parts] or [cell]:
            assert part.variant is not None  # Or it would be missing.
            scores.append(self.evidence.scores[part.variant, part.column].content)
        own, dense = scores[: cell.benchmarks_used or 1], scores[cell.benchmarks_used or 1 :]
        weights = [1 if column.kind != "weighted_mean" else score.total or 0 for score in own]
        return Entry(cell.value, tuple(own), tuple(weights), tuple(dense))

    def _versus(
        self, finding: Finding | None, row: Row, column: Column, model: str, n: int
    ) -> Versus | None:
        if finding is None:
            return None
        return Versus(
            cell=self._id(model, n, finding.other, column.id),
            label=self._label_beside(finding.other, row),
            difference=finding.difference,
            interval=list(finding.bounds),
            p=finding.p,
            adjusted=finding.adjusted,
            family=finding.family,
            test=finding.test,
            told_apart=finding.told_apart,
            text=describe(finding),
        )

    def _mark_best(self, rows: Sequence[Row], model: str, n: int) -> None:
        # A row that keeps some of the layers is smaller by fewer layers than the others.
        rows = [row for row in rows if self._kept(row, model, n) is None]
        for column in self.definition.columns:
            if column.higher_is_better is None:
                continue
            values = {}
            for row in rows:
                cell = self.cells[self._id(model, n, row.id, column.id)]
                if cell.status == "measured" and isinstance(cell.value, float):
                    values[cell.id] = cell.value
            ranked = sorted(set(values.values()), reverse=column.higher_is_better is True)
            if len(values) < 3:
                continue  # Of two rows both would carry a mark, which says nothing.
            for name, value in values.items():
                if value == ranked[0]:
                    self.cells[name] = replace(self.cells[name], mark="best")
                elif value == ranked[1]:
                    self.cells[name] = replace(self.cells[name], mark="second")


def _cost_text(column: Column, value: bool | int, kinds: Collection[OperationKind]) -> str:
    if column.kind == "trained":
        return format_training(bool(value))
    if column.kind == "foldable":
        return format_foldable(bool(value), kinds)
    return format_bytes(value) if column.unit == "bytes" else format_count(value)


def _width_lost(width: WidthManifest, n_layers: int) -> str:
    """Say how many key-value heads and channels each pruned layer of a model loses."""
    heads, channels = set[str](), set[int]()
    layers = sorted({name.split(".")[1] for name in width.tensors})
    for layer in layers:
        keys = width.shapes[f"layers.{layer}.self_attn.k_proj.weight"]
        gate = width.shapes[f"layers.{layer}.mlp.gate_proj.weight"]
        kept = int(width.tensors[f"layers.{layer}.heads"]["shape"][0])
        dense = keys.dense[0] * kept // keys.pruned[0]
        heads.add(f"{dense - kept} of {dense}")
        channels.add(gate.dense[0] - gate.pruned[0])
    lost = " to ".join(str(number) for number in sorted({min(channels), max(channels)}))
    return (
        f"in {len(layers)} of {n_layers} layers {' or '.join(sorted(heads))} key-value heads and "
        f"{lost} channels each"
    )


def _cost_note(
    column: Column, patch: PatchFacts, model: ModelFacts, recovery: RecoveryFacts
) -> str | None:
    """Say what a cost leaves open."""
    turned = "rotation" in patch.kinds
    untied = (
        "a head that is tied to the embedding then gets weights of its own, vocabulary x "
        f"{model.hidden_size} parameters, at most {format_count(model.outside_parameters)}"
    )
    families = (
        "rotations fold only into LLaMA, Mistral, Phi-3, Qwen2 and Qwen3, not into families whose "
        "norms subtract the mean (OPT, GPT-NeoX) or follow the branches (Gemma 2 and 3, OLMo 2)"
    )
    if column.kind == "foldable":
        note = f"operations: {', '.join(patch.kinds) or 'none, the stock architecture runs it'}"
        return f"{note}; {families}; {untied}" if patch.foldable and turned else note
    distilled = recovery.distillation
    if column.kind == "trained" and distilled is not None:
        return f"distilled, from the patch of {distilled.start}"
    if column.kind == "top_k" and distilled is not None:
        return "the rest is one more outcome" if distilled.tail else "renormalised over these"
    if column.kind == "trained" and recovery.training is not None:
        epochs, tokens = recovery.training.epochs, format_count(recovery.training.tokens or 0)
        return f"{epochs} epoch{'s' if epochs > 1 else ''} of {tokens} tokens"
    inserted = column.kind in ("parameters_added", "flops_added") and patch.kinds
    if not inserted or not patch.foldable or patch.restored:
        return None
    note = "none once folded into the weights"
    if not turned:
        return note
    # The untied head computes what the tied one did.
    return f"{note}; {families}" + (f"; {untied}" if column.kind == "parameters_added" else "")


def _with_share(cell: Cell, share: Share) -> Cell:
    value, bounds = share.closed.value, share.closed.bounds
    cell = replace(cell, value=value, text=format_share(value))
    if bounds is None:
        return cell
    return replace(cell, interval=list(bounds), interval_text=format_interval(bounds))


def _contrast(difference: Bounded, decimals: int) -> Contrast:
    text = f"{difference.value:+.{decimals}f}"
    if difference.bounds is not None:
        text += f" {format_interval(difference.bounds, decimals)}"
    return Contrast(
        value=difference.value,
        interval=list(difference.bounds) if difference.bounds is not None else None,
        text=text,
    )


def _estimate(cell: Cell) -> Estimate:
    assert isinstance(cell.value, float)
    return Estimate(cell.value, cell.stderr)


def _beside_published(
    cell: Cell, column: Column, printed: PublishedCell | None, trained: _Trained | None
) -> Cell:
    """Put the printed value, and where comparable the difference and a verdict, into a cell."""
    if trained is not None:
        otherwise = "" if printed is None else trained.beside_printed
        note = "; ".join(filter(None, [cell.note, trained.note, otherwise]))
        cell = replace(cell, note=note)
    if printed is None:
        return cell
    layers = printed.layers
    beside = replace(
        cell,
        published=list(layers) if layers is not None else printed.words or printed.value,
        published_text=format_layers(layers) if layers is not None else printed.text,
        published_note=printed.note or None,
    )
    if cell.status != "measured":
        return beside
    if layers is not None and isinstance(cell.value, list):
        difference = len(set(cell.value) - set(layers))
        return replace(beside, difference=difference, verdict=judge_layers(cell.value, layers))
    if not isinstance(cell.value, float):
        return replace(beside, unjudged="a fact of the run or of the model, not a result")
    if printed.value is None:
        return replace(beside, unjudged="the paper prints no number")
    if column.kind in UNJUDGED:
        return replace(beside, unjudged=UNJUDGED[column.kind])
    # A mean over fewer benchmarks than the printed one is another quantity, and so is what
    # training on more or less text gives.
    if cell.benchmarks_used != cell.benchmarks_wanted:
        return replace(beside, unjudged="over fewer benchmarks than the printed value")
    if trained is not None and not trained.as_printed:
        return replace(beside, unjudged="trained on another amount of text than the paper's row")
    beside = replace(beside, difference=cell.value - printed.value)
    if cell.n_pruned == 0 and column.kind in ("ratio", "retained"):
        return replace(beside, unjudged="holds by definition")
    verdict, stderr = judge(
        column, cell.value, cell.stderr, cell.n, cell.limited, printed.value, printed.text
    )
    if verdict is None:
        return replace(beside, unjudged="its standard error is not known")
    return replace(beside, verdict=verdict, difference_stderr=stderr)
