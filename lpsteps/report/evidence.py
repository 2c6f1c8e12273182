"""What the cells are made from, indexed for the tables.

That is score files, plans, patch manifests and training curves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lpsteps import paths
from lpsteps.artifacts import read_json, sha256_file
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.score import Score
from lpsteps.overheads.measurements import Overheads
from lpsteps.patches import PatchManifest
from lpsteps.plan import Plan, read_plan
from lpsteps.report.curves import TrainingCurve, read_curve
from lpsteps.validation import validated, validated_result
from lpsteps.width_pruning import WidthManifest

Content = TypeVar("Content")

VariantKey = tuple[str, int, str | None, str | None, str | None]
"""Model, number of removed layers, calibration, selection and recovery."""

PlanKey = tuple[str, str, str, int]
"""Model, calibration, selection and number of removed layers."""


class ModelFacts(BaseModel):
    """Facts about a dense model.

    Attributes:
        title: Name shown in the report.
        source: Repository, package or folder that the files come from.
        revision: Commit of the repository or version of the package, None for a folder.
        n_layers: Decoder layers.
        hidden_size: Width of the residual stream.
        parameters: Parameters of the whole model, tied ones once.
        layer_parameters: Parameters of one decoder layer.
        vocabulary: Rows of the embedding, None where the config does not state it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    revision: str | None
    n_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    parameters: int = Field(ge=1)
    layer_parameters: int = Field(ge=1)
    vocabulary: int | None = Field(default=None, ge=1)

    @property
    def outside_parameters(self) -> int:
        """Parameters of embedding, head and last norm."""
        return self.parameters - self.n_layers * self.layer_parameters

    @property
    def vocabularies(self) -> tuple[int, int]:
        """Tokens that there are if the head has weights of its own, and if it is tied."""
        if self.vocabulary is not None:
            return self.vocabulary, self.vocabulary
        tied = self.outside_parameters // self.hidden_size
        return tied // 2, tied


class VariantFacts(BaseModel):
    """One variant: a model with ``n`` layers removed, chosen and repaired as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    n: int = Field(ge=0)
    calibration: str
    selection: str
    recovery: str

    @property
    def key(self) -> VariantKey:
        """The tuple under which tables look the variant up."""
        if self.n == 0:
            return (self.model, 0, None, None, None)
        return (self.model, self.n, self.calibration, self.selection, self.recovery)


class TrainingFacts(BaseModel):
    """How long a recovery is trained: passes over how many tokens, without the held-out ones.

    The tokens are None where a distillation reads all that there are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    tokens: int | None = Field(ge=0)


class DistillationFacts(BaseModel):
    """How a recovery is distilled.

    Attributes:
        objective: What is compared: the distributions of the next token, or hidden states.
        top_k: Outcomes per position, None for the whole vocabulary.
        tail: Whether the rest of the vocabulary is one more outcome.
        parametrisation: What is trained.
        epochs: Passes over the text, unless it stops earlier.
        windows: Windows of text, None for all that there are.
        length: Tokens of a window.
        mode: Whether the targets are stored or made on the way.
        start: Name of the recovery that it starts from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: Literal["logits_kl", "feature_mse"]
    top_k: int | None = Field(ge=1)
    tail: bool
    parametrisation: str
    epochs: int = Field(ge=1)
    windows: int | None = Field(ge=1)
    length: int = Field(ge=1)
    mode: Literal["fused", "offline"]
    start: str

    @property
    def why_no_outcomes(self) -> str | None:
        """Why there is no number of outcomes that could be stored, None when there is one."""
        if self.objective == "feature_mse":
            return "compares hidden states, not outcomes"
        return None if self.top_k is not None else "compares the whole vocabulary"


class RecoveryFacts(BaseModel):
    """One recovery.

    Attributes:
        title: Of the recovery.
        calibration_tokens: Tokens of text that it reads, None where that is all there are.
        training: None when it is not trained.
        distillation: None when it is not distilled.
        unsuited: Why it cannot repair a cut, by model and number of layers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    calibration_tokens: int | None = Field(ge=0)
    training: TrainingFacts | None = None
    distillation: DistillationFacts | None = None
    unsuited: dict[str, dict[int, str]] = {}


class WidthFacts(BaseModel):
    """One width pruning: its title, and why it cannot reach a level, by model and level."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    unsuited: dict[str, dict[int, str]] = {}


class PlanFacts(BaseModel):
    """Whose layers a plan names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    n: int = Field(ge=1)
    calibration: str
    selection: str

    @property
    def key(self) -> PlanKey:
        """The tuple under which tables look the plan up."""
        return (self.model, self.calibration, self.selection, self.n)


class BuildSpec(BaseModel):
    """The settings of the step that builds the tables.

    Attributes:
        profile: Path of the config file of the run, or of several with commas between.
        overrides: Settings that were given beside it on the command line, by their keys.
        calibration: The calibration of rows that name none.
        printed_calibration: Whether it is the text that the paper's rows of this kind read.
        printed_training_text: Whether distilled rows are trained on the text of the paper's.
        tables: Per table, the models with the pruning levels to show.
        figures: The same per figure.
        order: Models in display order. A record keeps its keys sorted, so that an audit would not
            know it from the tables.
        models: Facts per model id.
        variants: What each variant folder holds.
        plans: What the plan in each folder is for.
        benchmarks: The benchmarks that the profile scores, with their definitions.
        unavailable: Benchmarks that cannot be scored in this profile, with the reason.
        selections: Titles of the selections of the methods config, by name.
        unsuited_selections: Why they cannot choose so many layers, by name, model and number.
        widths: The width prunings of the methods config, by name. Rows and variants name them in
            the place of a selection.
        recoveries: The recoveries of the methods config, by name, on the profile's calibration.
        own_calibrations: The calibrations of the data config that rows name, each with the
            recoveries that are built on it.
        window_lengths: Tokens of a window of each of these calibrations.
        unavailable_calibrations: Those whose text cannot be had in this profile, with the reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str
    overrides: dict[str, Any] = {}
    calibration: str
    printed_calibration: bool = True
    printed_training_text: bool = True
    tables: dict[str, dict[str, list[int]]]
    figures: dict[str, dict[str, list[int]]] = {}
    order: tuple[str, ...] = ()
    models: dict[str, ModelFacts]
    variants: dict[str, VariantFacts]
    plans: dict[str, PlanFacts]
    benchmarks: dict[str, Any]
    unavailable: dict[str, str] = {}
    selections: dict[str, str]
    unsuited_selections: dict[str, dict[str, dict[int, str]]] = {}
    widths: dict[str, WidthFacts] = {}
    recoveries: dict[str, RecoveryFacts]
    own_calibrations: dict[str, dict[str, RecoveryFacts]] = {}
    window_lengths: dict[str, int] = {}
    unavailable_calibrations: dict[str, str] = {}

    def selection_unsuited(self, name: str, model: str, n: int) -> str | None:
        """Return why a selection cannot choose n layers of a model, None when it can."""
        return self.unsuited_selections.get(name, {}).get(model, {}).get(n)

    def recovery(self, name: str, calibration: str | None) -> RecoveryFacts | None:
        """Return what is known of a recovery on the calibration that a row names, if any."""
        known = self.recoveries if calibration is None else self.own_calibrations.get(calibration)
        return (known or {}).get(name)


def parse_build_spec(content: Mapping[str, Any]) -> BuildSpec:
    """Check the step's settings.

    Raises:
        LpstepsError: A key is missing, unknown or of the wrong type, or a name is not defined.
    """
    spec = validated(BuildSpec, dict(content), "--spec")
    named = {model for row in (*spec.tables.values(), *spec.figures.values()) for model in row}
    named |= {variant.model for variant in spec.variants.values()}
    for model in sorted(named - spec.models.keys()):
        raise LpstepsError(f"--spec: models: '{model}' is used but not described")
    kinds = {"tables": spec.tables, "figures": spec.figures}
    return spec.model_copy(
        update={
            kind: {name: _ordered(row, spec.order) for name, row in shown.items()}
            for kind, shown in kinds.items()
        }
    )


def _ordered(row: Mapping[str, list[int]], order: Sequence[str]) -> dict[str, list[int]]:
    """Put models into an order; those that it lacks stay behind the others."""
    places = {model: place for place, model in enumerate(order)}
    return dict(sorted(row.items(), key=lambda entry: places.get(entry[0], len(places))))


@dataclass(frozen=True)
class Sourced(Generic[Content]):
    """The content of a file together with where it lies and its hash."""

    path: str
    sha256: str
    content: Content


@dataclass(frozen=True)
class Evidence:
    """All measured inputs of the tables.

    Attributes:
        folders: Folder of each variant.
        plan_folders: Folder of each plan.
        scores: By variant folder and benchmark.
        plans: By the same keys as their folders.
        patches: Patch manifests, by variant folder.
        curves: Training curves, by the folder of the distilled variant.
        widths: Manifests of width prunings, by variant folder.
        overheads: Costs of operations and of stored targets, by model.
        problems: Why a file, by its path, must not be shown: cells that rest on it are missing.
    """

    folders: Mapping[VariantKey, str]
    plan_folders: Mapping[PlanKey, str]
    scores: Mapping[tuple[str, str], Sourced[Score]]
    plans: Mapping[PlanKey, Sourced[Plan]]
    patches: Mapping[str, Sourced[PatchManifest]]
    curves: Mapping[str, Sourced[TrainingCurve]]
    widths: Mapping[str, Sourced[WidthManifest]] = field(default_factory=dict)
    overheads: Mapping[str, Sourced[Overheads]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def gather_evidence(
    spec: BuildSpec, measured: Iterable[Path], problems: Mapping[str, str]
) -> Evidence:
    """Read and index the measured inputs.

    Args:
        spec: Settings of the step; its variants say what each folder holds.
        measured: Scores, plans, manifests of patches and of width prunings, training curves and
            overheads, under the names of :mod:`lpsteps.paths` that tell them apart. Others, which
            figures are drawn from, are passed over.
        problems: Files that do not verify, with the reason; they are not read.

    Raises:
        LpstepsError: A file is not valid, lies in a folder that is no variant, or contradicts
            its place.
    """
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in measured:
        if path.as_posix() not in problems:
            files[paths.SCORES if path.parent.name == paths.SCORES else path.name].append(path)
    return Evidence(
        folders={variant.key: folder for folder, variant in spec.variants.items()},
        plan_folders={plan.key: folder for folder, plan in spec.plans.items()},
        scores=dict(_read_score(path, spec) for path in files[paths.SCORES]),
        plans=dict(_read_plan(path, spec) for path in files[paths.PLAN]),
        patches=dict(_read_patch(path, spec) for path in files[paths.PATCH]),
        curves=dict(_read_curve(path, spec) for path in files[paths.TRAINING_CURVE]),
        widths=dict(_read_width(path, spec) for path in files[paths.WIDTH]),
        overheads=dict(_read_overheads(path, spec) for path in files[paths.OVERHEADS]),
        problems=problems,
    )


def _variant_of(folder: Path, path: Path, spec: BuildSpec) -> VariantFacts:
    variant = spec.variants.get(folder.as_posix())
    if variant is None:
        raise LpstepsError(f"{path}: '{folder.as_posix()}' is not a variant of this profile")
    return variant


def _read_score(path: Path, spec: BuildSpec) -> tuple[tuple[str, str], Sourced[Score]]:
    folder = path.parent.parent
    variant = _variant_of(folder, path, spec)
    score = validated_result(Score, path)
    if (score.model, score.benchmark) != (variant.model, path.stem):
        found = f"{score.benchmark} of {score.model}"
        raise LpstepsError(f"{path}: holds {found}, expected {path.stem} of {variant.model}")
    key_of_score = (folder.as_posix(), path.stem)
    return key_of_score, Sourced(path.as_posix(), sha256_file(path), score)


def _read_plan(path: Path, spec: BuildSpec) -> tuple[PlanKey, Sourced[Plan]]:
    facts = spec.plans.get(path.parent.as_posix())
    if facts is None:
        raise LpstepsError(f"{path}: '{path.parent.as_posix()}' has no plan in this profile")
    plan = read_plan(path)
    content = read_json(path)
    found = (content["model"], content["selection"], len(plan.layers))
    if found != (facts.model, facts.selection, facts.n):
        raise LpstepsError(f"{path}: holds the plan of {found}; delete it to rebuild it")
    return facts.key, Sourced(path.as_posix(), sha256_file(path), plan)


def _read_patch(path: Path, spec: BuildSpec) -> tuple[str, Sourced[PatchManifest]]:
    variant = _variant_of(path.parent, path, spec)
    patch = validated_result(PatchManifest, path)
    if patch.recovery != variant.recovery:
        raise LpstepsError(
            f"{path}: recovery: '{patch.recovery}': expected '{variant.recovery}'; "
            "delete it to rebuild it"
        )
    return path.parent.as_posix(), Sourced(path.as_posix(), sha256_file(path), patch)


def _read_width(path: Path, spec: BuildSpec) -> tuple[str, Sourced[WidthManifest]]:
    variant = _variant_of(path.parent, path, spec)
    width = validated_result(WidthManifest, path)
    if (width.width, width.n) != (variant.selection, variant.n):
        raise LpstepsError(
            f"{path}: width: '{width.width}', n {width.n}: expected '{variant.selection}', "
            f"{variant.n}; delete it to rebuild it"
        )
    return path.parent.as_posix(), Sourced(path.as_posix(), sha256_file(path), width)


def _read_overheads(path: Path, spec: BuildSpec) -> tuple[str, Sourced[Overheads]]:
    model = path.parent.name
    if model not in spec.models:
        raise LpstepsError(f"{path}: '{model}' is not a model of this profile")
    overheads = validated_result(Overheads, path)
    return model, Sourced(path.as_posix(), sha256_file(path), overheads)


def _read_curve(path: Path, spec: BuildSpec) -> tuple[str, Sourced[TrainingCurve]]:
    variant = _variant_of(path.parent, path, spec)
    facts = spec.recoveries.get(variant.recovery)
    if facts is None or facts.distillation is None:
        raise LpstepsError(f"{path}: recovery '{variant.recovery}' is not distilled; delete it")
    return path.parent.as_posix(), Sourced(path.as_posix(), sha256_file(path), read_curve(path))
