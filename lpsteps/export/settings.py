"""What the config says of an export: the step's settings, and the forms that it can take."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Form = Literal["stock", "layer_pruned", "width_pruned"]
"""A stock architecture of transformers, or the model class that the checkpoint brings along."""


class MethodFacts(BaseModel):
    """A way to choose layers, to repair the cut, or to prune the width.

    Attributes:
        name: Entry of the config.
        title: Its title there.
        method: File of the method.
        params: Parameters of the method.
        paper: URL of its source; empty for a baseline without one.
        training: Settings of the distillation that trained the patch of `start`; None elsewhere.
        start: Entry whose patch was trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    method: str
    params: dict[str, Any]
    paper: str
    training: dict[str, Any] | None = None
    start: str | None = None


class BaseModelFacts(BaseModel):
    """The dense model.

    Attributes:
        title: Its title in the config.
        source: Where it comes from, in words.
        revision: Version or commit of that; None where it is not known.
        repo: Its repository on the Hugging Face Hub, None where the config names none.
        folder: Where the workflow keeps it.
        licence: What the config says of its licence; empty where it says nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str
    revision: str | None
    repo: str | None
    folder: str
    licence: str


class ExportSettings(BaseModel):
    """What the step reads from its spec.

    Attributes:
        model: Name of the model.
        variant: Path of the variant below `results/{model}`.
        base: The dense model.
        calibration: Entry of the calibration; None for the dense model, like all below.
        selection: How the layers were chosen; None where the width is pruned.
        recovery: How the cut was repaired; None where the width is pruned.
        width: How the width was pruned; None where layers are removed.
        benchmarks: Titles of the benchmarks whose scores the model card shows.
        seed: Of the tokens on which the written model is compared with the one in memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    variant: str
    base: BaseModelFacts
    calibration: str | None = None
    selection: MethodFacts | None = None
    recovery: MethodFacts | None = None
    width: MethodFacts | None = None
    benchmarks: dict[str, str] = Field(default_factory=dict)
    seed: int = Field(ge=0)
