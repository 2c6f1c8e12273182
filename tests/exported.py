"""Tiny models, ways to prune them, and their exports, for the tests of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lpsteps.export.checkpoint import Pruning, load_checkpoint, write_checkpoint
from lpsteps.export.settings import Form
from lpsteps.patches import GapPatch, Operation, OperationKind, PatchSet
from lpsteps.plan import Plan

N_LAYERS = 6
HIDDEN_SIZE = 48
TOKENS = torch.tensor(np.random.default_rng(3).integers(2, 128, (2, 11)))
CPU = torch.device("cpu")
TEMPLATES = {
    kind: Path(__file__).parents[1] / f"lpsteps/export/modeling_{kind}_pruned.py"
    for kind in ("layer", "width")
}


def plan_of(*layers: int) -> Plan:
    return Plan.removing(N_LAYERS, layers)


def operation(kind: OperationKind, seed: int = 0) -> Operation:
    """An operation of a kind that moves the stream clearly, but not far."""
    generator = np.random.default_rng(seed)
    shapes = {
        "scalar": (1,),
        "scale": (HIDDEN_SIZE,),
        "shift": (HIDDEN_SIZE,),
        "matrix": (HIDDEN_SIZE, HIDDEN_SIZE),
        "low_rank": (2, HIDDEN_SIZE, 4),
        "gated_mlp": (3, HIDDEN_SIZE, 20),
    }
    if kind == "rotation":
        gaussian = generator.standard_normal((HIDDEN_SIZE, HIDDEN_SIZE))
        return Operation("rotation", 1.7 * np.linalg.qr(gaussian)[0])
    if kind in ("scalar", "scale"):
        return Operation(kind, generator.uniform(0.5, 2.0, shapes[kind]))
    weights = 0.3 * generator.standard_normal(shapes[kind])
    return Operation(kind, weights + (np.eye(HIDDEN_SIZE) if kind == "matrix" else 0.0))


def patches_of(plan: Plan, *kinds: OperationKind) -> PatchSet:
    """The same kinds of operations for each gap, with other weights."""
    return PatchSet(
        tuple(
            GapPatch(start, end, tuple(operation(kind, start + i) for i, kind in enumerate(kinds)))
            for start, end in plan.gaps
        )
    )


def exported(model: Any, pruning: Pruning, folder: Path) -> tuple[Any, Form]:
    """Write a model, which is pruned in place, and load it again by transformers alone."""
    template = TEMPLATES["layer" if pruning.width is None else "width"].read_text()
    folder.mkdir(parents=True, exist_ok=True)
    form = write_checkpoint(model, pruning, folder, template)
    return load_checkpoint(folder, device=CPU, trusted=form != "stock"), form


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest deviation relative to the largest logit of the same token."""
    return float(((found - expected).abs().amax(dim=-1) / expected.abs().amax(dim=-1)).max())
