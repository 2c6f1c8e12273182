"""Cells of the share of parameters that pruning takes out, what the repair adds counted."""

from __future__ import annotations

from dataclasses import replace

from lpsteps.report.aggregates import removed_ratio
from lpsteps.report.cells import Cell, Source
from lpsteps.report.definitions import NO_RECOVERY, Row
from lpsteps.report.formats import format_value
from lpsteps.report.row_evidence import RowEvidence
from lpsteps.width_pruning import WidthManifest


def ratio_cell(behind: RowEvidence, blank: Cell, row: Row, variant: str) -> Cell:
    """Fill the cell of a row's ratio, in percent of the dense model's parameters."""
    if blank.n_pruned == 0:
        note = "by definition: nothing is removed"
        return replace(blank, status="measured", value=0.0, text=format_value(0.0), note=note)
    if row.selection in behind.spec.widths:
        return _width_ratio_cell(behind, blank, variant)
    plan = behind.plan(row, blank.model, blank.n_pruned)
    patch = behind.evidence.patches.get(variant)
    if plan is None:
        return replace(blank, reason="there is no plan file")
    if patch is None and row.recovery != NO_RECOVERY:
        return replace(blank, reason="there is no patch manifest")
    facts = behind.spec.models[blank.model]
    removed = len(plan.content.layers)
    added = patch.content.parameters if patch else 0
    note = f"{removed} x {facts.layer_parameters} - {added} of {facts.parameters} parameters"
    kept = behind.kept(row, blank.model, blank.n_pruned)
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


def _width_ratio_cell(behind: RowEvidence, blank: Cell, variant: str) -> Cell:
    width = behind.evidence.widths.get(variant)
    if width is None:
        return replace(blank, reason="there is no manifest of the width pruning")
    removed, total = width.content.parameters_removed, behind.spec.models[blank.model].parameters
    value = 100 * removed / total
    return replace(
        blank,
        status="measured",
        value=value,
        text=format_value(value),
        source=Source(width.path, "/parameters_removed", width.sha256),
        note=(
            f"{removed} of {total} parameters, counted from the shapes of the pruned layers; "
            f"{_width_lost(width.content, behind.spec.models[blank.model].n_layers)}"
        ),
    )


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
