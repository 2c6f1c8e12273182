"""Build the patches that repair a pruned model, one per gap.

By hand::

    python -m lpsteps.steps.build_patch --stats stats.parquet --plan plan.json \
        --model resources/models/M/manifest.json --patch patch.safetensors \
        --manifest patch.manifest.json --spec '{"recovery": "lp", "method": "linearpatch"}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import read_json
from lpsteps.data.window_file import first_windows
from lpsteps.errors import LpstepsError
from lpsteps.inputs import ModelInput
from lpsteps.methods import recovery_method, recovery_needs
from lpsteps.models.families import model_size
from lpsteps.moments import moments_tensors, read_moments
from lpsteps.patches import tensors_beside, write_patches
from lpsteps.plan import read_plan
from lpsteps.program import StepRun, run_step
from lpsteps.recovery.base import RecoveryContext, moments_kind
from lpsteps.statistics import Statistics
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: str = Field(description="Name of the recovery, an entry of the configuration")
    method: str = Field(description="Module of lpsteps.recovery that does the work")
    params: dict[str, Any] = Field(default={}, description="Parameters of the method")
    windows: int | None = Field(
        default=None, ge=1, description="Windows for a recovery that runs the model; null for all"
    )
    exclude_first: int = Field(
        default=0, ge=0, description="Tokens of each of these windows that must not count"
    )
    bos_in_windows: bool = Field(
        default=False, description="Each of these windows begins with the BOS token"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the run")
    modules: list[str] = Field(default=[], description="Method modules, for the record")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--stats", type=Path, help="calibration statistics, Parquet")
    parser.add_argument("--moments", type=Path, help="manifest of the moments of the plan's gaps")
    parser.add_argument("--windows", type=Path, help="calibration windows, Parquet")
    parser.add_argument("--compute", type=Path, help="compute.json of this machine")
    parser.add_argument("--plan", type=Path, required=True, help="plan, JSON")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--patch", type=Path, required=True, help="output: tensors, safetensors")
    parser.add_argument("--manifest", type=Path, required=True, help="output: manifest, JSON")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    method = recovery_method(settings.method)
    params = validated(method.Params, settings.params, f"--spec: {settings.recovery}: params")
    if tensors_beside(arguments.manifest) != arguments.patch:
        raise LpstepsError(
            f"--patch: {arguments.patch}: must be {tensors_beside(arguments.manifest)}, "
            "beside its manifest"
        )

    needs = recovery_needs(method, params)
    statistics = moments = model = None
    if "statistics" in needs and arguments.stats:
        statistics = Statistics.read(step.read(arguments.stats))
    kind = moments_kind(needs)
    if kind is not None and arguments.moments:
        step.read(moments_tensors(step.read(arguments.moments), kind))
        moments = read_moments(arguments.moments, kind)
    step.read(arguments.model)
    if "model" in needs and arguments.windows and arguments.compute:
        step.read_manifest(arguments.model)
        model = ModelInput(
            folder=arguments.model.parent,
            compute=step.read(arguments.compute),
            text=first_windows(step.read(arguments.windows), settings.windows),
            exclude_first=settings.exclude_first,
        )
    config = step.read(arguments.model.with_name("config.json"))
    context = RecoveryContext(
        plan=read_plan(step.read(arguments.plan)),
        hidden_size=model_size(read_json(config), "hidden_size", str(config)),
        statistics=statistics,
        moments=moments,
        model=model,
        seed=settings.seed,
        bos_in_windows=settings.bos_in_windows,
    )
    patches = method.build(context, params)

    if model is not None:
        for key, fact in model.facts().items():
            step.note(key, fact)
    step.note("seed", settings.seed)
    step.note("added_parameters", patches.parameters)
    write_patches(
        step.write(arguments.patch),
        step.write(arguments.manifest),
        patches,
        recovery=settings.recovery,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.build_patch", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
