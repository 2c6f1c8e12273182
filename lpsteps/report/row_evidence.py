"""What stands behind the rows of one table: variants, plans, repairs, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lpsteps import paths
from lpsteps.plan import Plan
from lpsteps.report.cells import Cell
from lpsteps.report.curves import TrainingCurve
from lpsteps.report.definitions import Column, Row, TableDefinition
from lpsteps.report.evidence import BuildSpec, DistillationFacts, Evidence, PlanKey, Sourced
from lpsteps.report.formats import format_count
from lpsteps.report.printed_protocol import WINDOW_LENGTH, other_windows
from lpsteps.report.training_amount import TrainingAmount


@dataclass(frozen=True)
class RowEvidence:
    """Finds what stands behind the rows of one table.

    Attributes:
        definition: The table.
        spec: Settings of the step.
        evidence: The measured inputs.
    """

    definition: TableDefinition
    spec: BuildSpec
    evidence: Evidence

    def cell_id(self, model: str, n: int, row: str, column: str) -> str:
        """Return the id of a cell."""
        return f"{self.definition.id}/{model}/n{n}/{row}/{column}"

    def blank(self, row: Row, column: Column, model: str, n: int) -> Cell:
        """Return the cell with nothing in it yet."""
        return Cell(
            id=self.cell_id(model, n, row.id, column.id),
            table=self.definition.id,
            row=row.id,
            column=column.id,
            model=model,
            n_pruned=n,
            status="missing",
            variant=self.folder(row, model, n),
        )

    def folder(self, row: Row, model: str, n: int) -> str | None:
        """Return where the variant of a row lies, None if the profile does not build it."""
        if row.overhead is not None:
            return None
        if row.selection is None:
            return self.evidence.folders.get((model, n, None, None, None))
        calibration = row.calibration or self.spec.calibration
        return self.evidence.folders.get((model, n, calibration, row.selection, row.recovery))

    def plan(self, row: Row, model: str, n: int) -> Sourced[Plan] | None:
        """Return the plan of a row, None if there is none."""
        return self.evidence.plans.get(self._plan_key(row, model, n))

    def _plan_key(self, row: Row, model: str, n: int) -> PlanKey:
        return (model, row.calibration or self.spec.calibration, row.selection or "", n)

    def removed(self, row: Row, model: str, n: int) -> tuple[int, ...] | None:
        """Return the layers that a row removes, None where there is no plan."""
        plan = self.plan(row, model, n)
        return plan.content.layers if plan else None

    def kept(self, row: Row, model: str, n: int) -> str | None:
        """Say how many of the layers to remove stay after all, retrained; None if all go."""
        patch = self.evidence.patches.get(self.folder(row, model, n) or "")
        if patch is None or not patch.content.restored:
            return None
        count = len(patch.content.restored)
        return f"keeps {count} retrained layer{'s' if count > 1 else ''}"

    def other_text(self, row: Row) -> str | None:
        """Say by which other calibration text than the paper's a row is cut and repaired, if any.

        A row that names its calibration is of that text in the paper, too.
        """
        if row.selection is None:
            return None
        if row.calibration is not None:
            return other_windows(self.spec.window_lengths.get(row.calibration, WINDOW_LENGTH))
        return None if self.spec.printed_calibration else "other text than the paper's row"

    def distillation(self, row: Row) -> DistillationFacts | None:
        """Return how a row is distilled, None if it is not."""
        facts = self.spec.recovery(row.recovery, row.calibration) if row.selection else None
        return facts.distillation if facts else None

    def curve(self, row: Row, model: str, n: int) -> Sourced[TrainingCurve] | None:
        """Return the training curve of a row, None if there is none."""
        return self.evidence.curves.get(self.folder(row, model, n) or "")

    def training_amount(self, row: Row, model: str, n: int) -> TrainingAmount | None:
        """Return on how much text a row was distilled, None if it was not."""
        facts = self.distillation(row)
        if facts is None:
            return None
        sourced = self.curve(row, model, n)
        printed = (row.printed_tokens, self.spec.printed_training_text)
        if sourced is None:
            return TrainingAmount("how long it was trained is not known", None, *printed)
        curve = sourced.content
        windows = curve.first_pass // facts.length
        kept, _ = curve.kept
        note = (
            f"distilled on {format_count(curve.tokens)} tokens, {format_count(windows)} windows of "
            f"{format_count(facts.length)}; the state after {format_count(kept)} is kept"
        )
        return TrainingAmount(note, (curve.tokens, curve.first_pass), *printed)

    def problem(self, row: Row, blank: Cell) -> str | None:
        """Say why nothing at all can be shown for a row."""
        if row.selection in self.spec.widths:
            levels = self.spec.widths[row.selection].unsuited.get(blank.model, {})
            manifest = paths.width(blank.variant or "")
            return levels.get(blank.n_pruned) or self.evidence.problems.get(manifest)
        if row.selection is not None:
            if row.selection not in self.spec.selections:
                return row.missing or f"no selection '{row.selection}' is configured"
            out_of_reach = self.spec.selection_unsuited(row.selection, blank.model, blank.n_pruned)
            if out_of_reach is not None:
                return out_of_reach
            if row.recovery not in self.spec.recoveries:
                return row.missing or f"no recovery '{row.recovery}' is configured"
            if row.calibration in self.spec.unavailable_calibrations:
                return self.spec.unavailable_calibrations[row.calibration]
            facts = self.spec.recovery(row.recovery, row.calibration)
            if facts is None:
                return row.missing or f"no calibration '{row.calibration}' is configured"
            levels = facts.unsuited.get(blank.model, {})
            if blank.n_pruned in levels:
                return levels[blank.n_pruned]
        plan_key = self._plan_key(row, blank.model, blank.n_pruned)
        plan = paths.plan(self.evidence.plan_folders.get(plan_key, ""))
        patch = paths.patch(blank.variant or "")
        problems = self.evidence.problems
        return problems.get(plan) or problems.get(patch)

    def why_not_scored(self, benchmark: str) -> str:
        """Say why a benchmark has no score."""
        if benchmark in self.spec.unavailable:
            return self.spec.unavailable[benchmark]
        if benchmark not in self.spec.benchmarks:
            return f"this profile does not score '{benchmark}'"
        return f"there is no score file for '{benchmark}'"

    def covered(self, column: Column, model: str) -> tuple[list[str], str | None]:
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
            return [], f"needs {', '.join(titles)}: {self.why_not_scored(absent[0])}"
        return names, None

    def label_beside(self, name: str, row: Row) -> str:
        """Return the label of another row, with its group where that is another one."""
        other = self.definition.row(name)
        return other.label if other.group == row.group else f"{other.label} ({other.group})"

    def twin(self, row: Row, rows: Sequence[Row], model: str, n: int) -> Row | None:
        """Return the first row above with the same layers and repair, which is the same model."""
        layers = self.removed(row, model, n)
        if layers is None:
            return None

        def repair(of: Row) -> tuple[str, str]:
            return of.recovery, of.calibration or self.spec.calibration

        for other in rows[: rows.index(row)]:
            if repair(other) == repair(row) and self.removed(other, model, n) == layers:
                return other
        return None

    def note(self, row: Row, rows: Sequence[Row], model: str, n: int) -> str | None:
        """Say what a reader of a row among the rows of its section has to know."""
        twin = self.twin(row, rows, model, n)
        same = f"same layers as {self.spec.selections[twin.selection or '']}" if twin else None
        return ", ".join(filter(None, (same, self.kept(row, model, n)))) or None
