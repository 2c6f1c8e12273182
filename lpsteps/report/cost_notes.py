"""What a reader of a cost has to know: what it leaves open, and what stands behind it."""

from __future__ import annotations

from lpsteps.patches import PatchManifest
from lpsteps.report.definitions import Column, Row
from lpsteps.report.evidence import DistillationFacts, ModelFacts, RecoveryFacts
from lpsteps.report.formats import format_count
from lpsteps.report.row_evidence import RowEvidence


def cost_note(
    column: Column, patch: PatchManifest, model: ModelFacts, recovery: RecoveryFacts
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


def distilled_note(
    behind: RowEvidence,
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
    start = behind.spec.recovery(facts.start, row.calibration)
    if column.kind != "calibration_tokens" or start is None or start.calibration_tokens == 0:
        return note
    own = start.calibration_tokens
    text = f"{format_count(own)} tokens" if own else "its whole text"
    return f"{note}, which reads {text} besides, not counted here"
