"""Cells of what a repair costs: parameters, operations, text, training, stored targets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lpsteps import paths
from lpsteps.distillation.teacher_store import bytes_per_target
from lpsteps.overheads.costs import patch_flops, stored_target_bytes
from lpsteps.patches import OperationKind, PatchManifest
from lpsteps.report.cells import Cell, Source
from lpsteps.report.cost_notes import cost_note, distilled_note
from lpsteps.report.definitions import Column, Row
from lpsteps.report.evidence import (
    DistillationFacts,
    ModelFacts,
    RecoveryFacts,
)
from lpsteps.report.formats import format_bytes, format_count, format_foldable, format_training
from lpsteps.report.row_evidence import RowEvidence

DISTILLED = ("distilled_windows", "distilled_tokens", "calibration_tokens", "target_storage")
"""Columns that a distilled row fills from its training curve."""


def cost_cell(behind: RowEvidence, blank: Cell, row: Row, column: Column, variant: str) -> Cell:
    """Fill the cell of a cost that the patch manifest and the recovery tell."""
    if blank.n_pruned == 0:
        nothing: bool | int = column.kind == "foldable" if column.unit == "answer" else 0
        return replace(
            blank,
            status="measured",
            value=nothing,
            text=_cost_text(column, nothing, ()),
            note="by definition: nothing is repaired",
        )
    patch = behind.evidence.patches.get(variant)
    if patch is None:
        return replace(blank, reason="there is no patch manifest")
    recovery = behind.spec.recovery(row.recovery, row.calibration)
    assert recovery is not None  # Or the row would have a problem.
    facts = behind.spec.models[blank.model]
    pointer, value = _cost(column, patch.content, facts, recovery)
    return replace(
        blank,
        status="measured",
        value=value,
        text=_cost_text(column, value, patch.content.kinds),
        source=Source(patch.path, pointer, patch.sha256),
        note=cost_note(column, patch.content, facts, recovery),
    )


def _cost(
    column: Column, patch: PatchManifest, model: ModelFacts, recovery: RecoveryFacts
) -> tuple[str, bool | int]:
    """Return where in the patch manifest a cost, or the name of what has it, stands; and the cost.

    Args:
        column: What is asked for.
        patch: The patch manifest.
        model: The dense model.
        recovery: The recovery that built the patch.
    """
    match column.kind:
        case "parameters_added":
            return "/parameters", patch.parameters
        case "flops_added":
            return "/tensors", patch_flops(patch, model.hidden_size)
        case "foldable":
            return "/foldable", patch.foldable
        case "trained":
            return "/recovery", bool(recovery.training or recovery.distillation)
        case "calibration_tokens":
            return "/recovery", recovery.calibration_tokens or 0
        case "top_k":
            distilled = recovery.distillation
            return "/recovery", (distilled.top_k or 0) if distilled else 0
        case _:  # One of DISTILLED, of a row that is not distilled.
            return "/recovery", 0


def distilled_cell(
    behind: RowEvidence, blank: Cell, row: Row, column: Column, facts: DistillationFacts
) -> Cell:
    """Fill the cell of a cost that the training curve of a distilled row tells."""
    sourced = behind.curve(row, blank.model, blank.n_pruned)
    if sourced is None:
        problem = behind.evidence.problems.get(paths.training_curve(blank.variant or ""))
        return replace(blank, reason=problem or "there is no training curve")
    read = sourced.content.first_pass
    untied, tied = behind.spec.models[blank.model].vocabularies
    if column.kind == "target_storage" and bytes_per_target(untied) != bytes_per_target(tied):
        return replace(blank, reason="the sizes of the model leave open how many tokens it has")
    match column.kind:
        case "distilled_windows":
            value = read // facts.length
        case "distilled_tokens":
            value = sourced.content.tokens
        case "target_storage":
            value = stored_target_bytes(read, facts.top_k or 0, tied)
        case _:  # calibration_tokens
            value = read
    return replace(
        blank,
        status="measured",
        value=value,
        text=_cost_text(column, value, ()),
        source=Source(sourced.path, "column=tokens", sourced.sha256),
        note=distilled_note(behind, column, row, facts, read, bytes_per_target(tied)),
    )


def _cost_text(column: Column, value: bool | int, kinds: Collection[OperationKind]) -> str:
    if column.kind == "trained":
        return format_training(bool(value))
    if column.kind == "foldable":
        return format_foldable(bool(value), kinds)
    return format_bytes(value) if column.unit == "bytes" else format_count(value)
