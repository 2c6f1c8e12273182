"""Choose the attention heads and MLP channels that leave a model, and write which ones stay.

By hand::

    python -m lpsteps.steps.prune_width --model resources/models/M/manifest.json \
        --compute results/M/compute.json --windows results/M/windows/wikipedia/calibration.parquet \
        --tensors width.safetensors --manifest width.manifest.json --spec SPEC

where SPEC is `{"width": "llm-pruner", "method": "llm_pruner", "n": 5, "params": {"windows": 10,
"length": 128, "exempt_first": 4, "exempt_last": 2}}`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.data.window_file import first_windows
from lpsteps.errors import LpstepsError
from lpsteps.inputs import ModelInput
from lpsteps.methods import width_method
from lpsteps.patches import tensors_beside
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated
from lpsteps.width.base import WidthContext
from lpsteps.width_pruning import parameters_removed, write_width


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: str = Field(description="Name of the width pruning, an entry of the configuration")
    method: str = Field(description="Module of lpsteps.width that does the work")
    params: dict[str, Any] = Field(default={}, description="Parameters of the method")
    n: int = Field(ge=1, description="Number of whole layers with as many parameters as are to go")
    windows: int | None = Field(
        default=None, ge=1, description="Windows of the calibration; null for all"
    )
    exclude_first: int = Field(
        default=0, ge=0, description="Tokens of each of these windows that must not count"
    )
    modules: list[str] = Field(default=[], description="Method modules, for the record")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument("--windows", type=Path, required=True, help="calibration windows, Parquet")
    parser.add_argument(
        "--tensors", type=Path, required=True, help="output: heads and channels, safetensors"
    )
    parser.add_argument("--manifest", type=Path, required=True, help="output: manifest, JSON")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    method = width_method(settings.method)
    params = validated(method.Params, settings.params, f"--spec: {settings.width}: params")
    if tensors_beside(arguments.manifest) != arguments.tensors:
        raise LpstepsError(
            f"--tensors: {arguments.tensors}: must be {tensors_beside(arguments.manifest)}, "
            "beside its manifest"
        )

    step.read_manifest(arguments.model)
    model = ModelInput(
        folder=arguments.model.parent,
        compute=step.read(arguments.compute),
        text=first_windows(step.read(arguments.windows), settings.windows),
        exclude_first=settings.exclude_first,
    )
    pruning = method.prune(WidthContext(settings.n, model), params)

    for layer, width in sorted(pruning.layers.items()):
        step.logger.info(
            "layer %d keeps %d key-value heads, %d channels",
            layer,
            len(width.heads),
            len(width.channels),
        )
    for key, fact in model.facts().items():
        step.note(key, fact)
    step.note("parameters_removed", parameters_removed(pruning.shapes))
    write_width(
        step.write(arguments.tensors),
        step.write(arguments.manifest),
        pruning,
        width=settings.width,
        n=settings.n,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.prune_width", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
