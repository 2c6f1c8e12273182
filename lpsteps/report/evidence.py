"""What the cells are made from: score files, plans and patch manifests, indexed for the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import read_json, sha256_file
from lpsteps.errors import LpstepsError
from lpsteps.plan import Plan, read_plan
from lpsteps.validation import validated

Content = TypeVar("Content")

VariantKey = tuple[str, int, str | None, str | None]


class ModelFacts(BaseModel):
    """Facts about a dense model: display title, depth, width, parameters in all and per layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    n_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    parameters: int = Field(ge=1)
    layer_parameters: int = Field(ge=1)


class VariantFacts(BaseModel):
    """One variant: a model with ``n`` layers removed, chosen and repaired as the two names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    n: int = Field(ge=0)
    selection: str
    recovery: str

    @property
    def key(self) -> VariantKey:
        """The tuple under which tables look the variant up."""
        if self.n == 0:
            return (self.model, 0, None, None)
        return (self.model, self.n, self.selection, self.recovery)


class PlanFacts(BaseModel):
    """Whose layers a plan names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    n: int = Field(ge=1)
    selection: str


class BuildSpec(BaseModel):
    """The settings of the step that builds the tables.

    Attributes:
        profile: Path of the config file of the run.
        tables: Per table, the models with the pruning levels to show, in display order.
        models: Facts per model id.
        variants: What each variant folder holds.
        plans: What the plan in each folder is for.
        benchmarks: The benchmarks that the profile scores, with their definitions.
        unavailable: Benchmarks that cannot be scored in this profile, with the reason.
        selections: Titles of the selections of the methods config, by name.
        recoveries: Titles of the recoveries of the methods config, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str
    tables: dict[str, dict[str, list[int]]]
    models: dict[str, ModelFacts]
    variants: dict[str, VariantFacts]
    plans: dict[str, PlanFacts]
    benchmarks: dict[str, Any]
    unavailable: dict[str, str] = {}
    selections: dict[str, str]
    recoveries: dict[str, str]


def parse_build_spec(content: Mapping[str, Any]) -> BuildSpec:
    """Check the step's settings.

    Raises:
        LpstepsError: A key is missing, unknown or of the wrong type, or a name is not defined.
    """
    spec = validated(BuildSpec, dict(content), "--spec")
    named = {model for table in spec.tables.values() for model in table}
    named |= {variant.model for variant in spec.variants.values()}
    for model in sorted(named - spec.models.keys()):
        raise LpstepsError(f"--spec: models: '{model}' is used but not described")
    return spec


class Score(BaseModel):
    """What the tables read of a score file.

    Attributes:
        value: Percent for accuracies, plain for perplexities; None when the run gave no number.
        stderr: Standard error in the unit of the value.
        n: Documents or windows scored.
        limited: Whether these are fewer than the split has.
        total: Documents or windows of the split, None when not known.
        settings: Everything else that matters for the value.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    benchmark: str
    protocol: str
    metric: str
    value: float | None = Field(allow_inf_nan=False)
    stderr: float | None = Field(allow_inf_nan=False)
    n: int
    limited: bool
    total: int | None
    unit: str
    settings: dict[str, Any]


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
        plan_folders: Folder of each plan, by model, selection and number of removed layers.
        scores: By variant folder and benchmark.
        plans: By model, selection and number of removed layers.
        patch_parameters: Added parameters, by variant folder; the file is the patch manifest.
        problems: Why a file, by its path, must not be shown: cells that rest on it are missing.
    """

    folders: Mapping[VariantKey, str]
    plan_folders: Mapping[tuple[str, str, int], str]
    scores: Mapping[tuple[str, str], Sourced[Score]]
    plans: Mapping[tuple[str, str, int], Sourced[Plan]]
    patch_parameters: Mapping[str, Sourced[int]]
    problems: Mapping[str, str] = field(default_factory=dict)


def gather_evidence(
    spec: BuildSpec,
    scores: Iterable[Path],
    plans: Iterable[Path],
    patches: Iterable[Path],
    problems: Mapping[str, str] | None = None,
) -> Evidence:
    """Read and index the measured inputs.

    Args:
        spec: Settings of the step; its variants say what each folder holds.
        scores: Files ``<variant folder>/scores/<benchmark>.json``.
        plans: Files ``plan.json``.
        patches: Files ``<variant folder>/patch.manifest.json``.
        problems: Files that do not verify, with the reason; they are not read.

    Raises:
        LpstepsError: A file is not valid, lies in a folder that is no variant, or contradicts
            its place.
    """
    bad = dict(problems or {})

    def good(paths: Iterable[Path]) -> Iterable[Path]:
        return (path for path in paths if path.as_posix() not in bad)

    return Evidence(
        folders={variant.key: folder for folder, variant in spec.variants.items()},
        plan_folders={
            (plan.model, plan.selection, plan.n): folder for folder, plan in spec.plans.items()
        },
        scores=dict(_read_score(path, spec) for path in good(scores)),
        plans=dict(_read_plan(path, spec) for path in good(plans)),
        patch_parameters=dict(_read_patch(path, spec) for path in good(patches)),
        problems=bad,
    )


def _variant_of(folder: Path, path: Path, spec: BuildSpec) -> VariantFacts:
    variant = spec.variants.get(folder.as_posix())
    if variant is None:
        raise LpstepsError(f"{path}: '{folder.as_posix()}' is not a variant of this profile")
    return variant


def _read_score(path: Path, spec: BuildSpec) -> tuple[tuple[str, str], Sourced[Score]]:
    folder = path.parent.parent
    variant = _variant_of(folder, path, spec)
    score = validated(Score, read_json(path), str(path))
    if (score.model, score.benchmark) != (variant.model, path.stem):
        found = f"{score.benchmark} of {score.model}"
        raise LpstepsError(f"{path}: holds {found}, expected {path.stem} of {variant.model}")
    key_of_score = (folder.as_posix(), path.stem)
    return key_of_score, Sourced(path.as_posix(), sha256_file(path), score)


def _read_plan(path: Path, spec: BuildSpec) -> tuple[tuple[str, str, int], Sourced[Plan]]:
    facts = spec.plans.get(path.parent.as_posix())
    if facts is None:
        raise LpstepsError(f"{path}: '{path.parent.as_posix()}' has no plan in this profile")
    plan = read_plan(path)
    content = read_json(path)
    found = (content["model"], content["selection"], len(plan.layers))
    if found != (facts.model, facts.selection, facts.n):
        raise LpstepsError(f"{path}: holds the plan of {found}; delete it to rebuild it")
    return found, Sourced(path.as_posix(), sha256_file(path), plan)


def _read_patch(path: Path, spec: BuildSpec) -> tuple[str, Sourced[int]]:
    _variant_of(path.parent, path, spec)
    parameters = read_json(path).get("parameters")
    if not isinstance(parameters, int) or parameters < 0:
        raise LpstepsError(f"{path}: parameters: {parameters!r}: expected the added parameters")
    return path.parent.as_posix(), Sourced(path.as_posix(), sha256_file(path), parameters)
