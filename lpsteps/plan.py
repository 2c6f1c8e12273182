"""A pruning plan: which decoder layers leave the model, and in which order.

Decoder layers are numbered ``0 .. n_layers - 1``. A *gap* is a maximal run ``[start, end)`` of
removed layers, end exclusive: after the removal, layer ``end`` (or the final norm when ``end ==
n_layers``) reads what layer ``start`` used to read. Everything downstream (patches, surgery, the
lineage in the tables) speaks of gaps, whether the layers were chosen as one window or one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import write_json
from lpsteps.errors import LpstepsError
from lpsteps.validation import validated_result


@dataclass(frozen=True)
class Plan:
    """The decoder layers to remove from a model.

    Attributes:
        n_layers: Decoder layers of the dense model.
        layers: Removed layers, ascending.
        order: The same layers in the order in which the selection gave them up.

    Raises:
        LpstepsError: When a layer is out of range or named twice, when nothing would be left, or
            when ``layers`` and ``order`` are not the same set.
    """

    n_layers: int
    layers: tuple[int, ...]
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.n_layers < 1:
            raise LpstepsError(f"n_layers: {self.n_layers}: a model has at least one decoder layer")
        outside = [layer for layer in self.order if not 0 <= layer < self.n_layers]
        if outside:
            raise LpstepsError(f"order: {outside[0]}: layers run from 0 to {self.n_layers - 1}")
        if len(set(self.order)) != len(self.order):
            raise LpstepsError(f"order: {list(self.order)}: a layer can be removed only once")
        if self.layers != tuple(sorted(self.order)):
            raise LpstepsError(f"layers: {list(self.layers)}: must be order, sorted ascending")
        if len(self.layers) >= self.n_layers:
            raise LpstepsError(
                f"layers: {len(self.layers)} of {self.n_layers}: at least one layer must survive"
            )

    @classmethod
    def dense(cls, n_layers: int) -> Plan:
        """The plan that removes nothing from a model of ``n_layers`` layers."""
        return cls(n_layers, (), ())

    @classmethod
    def removing(cls, n_layers: int, order: tuple[int, ...]) -> Plan:
        """The plan that removes the layers of ``order``, given in removal order."""
        return cls(n_layers, tuple(sorted(order)), order)

    def require_layers(self, n_layers: int, source: str) -> None:
        """Check that the plan is for a model of so many decoder layers.

        Raises:
            LpstepsError: It is for another one; the message names ``source``.
        """
        if self.n_layers != n_layers:
            raise LpstepsError(
                f"{source}: n_layers: {self.n_layers}: the model has {n_layers} decoder layers"
            )

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Maximal runs ``(start, end)`` of removed layers, end exclusive, ascending."""
        gaps: list[tuple[int, int]] = []
        for layer in self.layers:
            if gaps and gaps[-1][1] == layer:
                gaps[-1] = (gaps[-1][0], layer + 1)
            else:
                gaps.append((layer, layer + 1))
        return tuple(gaps)


class _PlanFile(BaseModel):
    """The contents of ``plan.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    version: Literal[1] = Field(default=1, alias="schema")
    model: str
    selection: str
    n_layers: int
    n: int
    layers: list[int]
    order: list[int]
    gaps: list[list[int]]


def write_plan(path: Path, plan: Plan, *, model: str, selection: str) -> None:
    """Write ``plan`` as ``plan.json``, with the names of its model and selection."""
    contents = _PlanFile(
        model=model,
        selection=selection,
        n_layers=plan.n_layers,
        n=len(plan.layers),
        layers=list(plan.layers),
        order=list(plan.order),
        gaps=[list(gap) for gap in plan.gaps],
    )
    write_json(path, contents.model_dump(by_alias=True))


def read_plan(path: Path) -> Plan:
    """Read a ``plan.json``.

    Raises:
        LpstepsError: When the file is missing, has an unknown or wrongly typed key, or when its
            count, layers, order and gaps contradict one another.
    """
    contents = validated_result(_PlanFile, path)
    try:
        plan = Plan(contents.n_layers, tuple(contents.layers), tuple(contents.order))
    except LpstepsError as error:
        raise LpstepsError(f"{path}: {error}; delete it to rebuild it") from error
    if contents.n != len(plan.layers):
        raise LpstepsError(
            f"{path}: n: {contents.n}: but {len(plan.layers)} layers are listed; "
            "delete it to rebuild it"
        )
    if contents.gaps != [list(gap) for gap in plan.gaps]:
        raise LpstepsError(
            f"{path}: gaps: {contents.gaps}: do not follow from the layers listed; "
            "delete it to rebuild it"
        )
    return plan
