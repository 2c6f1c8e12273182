"""Run the dense model once and write the token-wise scalings across the cut of a plan.

By hand::

    python -m lpsteps.steps.measure_token_scales --model resources/models/M/manifest.json \
        --windows results/M/windows/C/calibration.parquet --compute results/M/compute.json \
        --plan plan.json --scales token_scales.parquet --spec '{"windows": 16}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.data.window_file import first_windows
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import BasisKind, basis_matrix
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.compute import configure_torch, read_compute
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.models.token_scales import measure_token_scales
from lpsteps.plan import read_plan
from lpsteps.program import StepRun, run_step
from lpsteps.token_scales import ScalesFile, write_token_scales
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(ge=1, description="Windows to use, the first ones of the file")
    exclude_first: int = Field(default=0, ge=0, description="Tokens to skip in each window")
    basis: BasisKind = Field(default="hadamard", description="The rotated basis")
    epsilon: float = Field(
        default=1e-6,
        gt=0,
        lt=1,
        description="Floor under denominators, relative to the token's mean magnitude",
    )


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, required=True, help="plan, JSON")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--windows", type=Path, required=True, help="calibration windows, Parquet")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument("--scales", type=Path, required=True, help="output: summaries, Parquet")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    threads = configure_torch()
    windows = first_windows(step.read(arguments.windows), settings.windows)
    plan = read_plan(step.read(arguments.plan))
    compute = read_compute(step.read(arguments.compute))
    step.read_manifest(arguments.model)
    model = load_model(arguments.model.parent, compute.dtype, device=compute.device)
    use_causal_attention(model)
    plan.require_layers(len(decoder_of(model).layers), str(arguments.plan))
    if len(plan.gaps) != 1:
        raise LpstepsError(
            f"{arguments.plan}: {len(plan.gaps)} gaps: token-wise scalings are those of one window "
            "of layers; use a selection that removes one"
        )
    start, end = plan.gaps[0]
    bases = measure_token_scales(
        model,
        windows,
        (start, end),
        basis_matrix(model.config.get_text_config().hidden_size, settings.basis),
        basis_kind=settings.basis,
        epsilon=settings.epsilon,
        exclude_first=settings.exclude_first,
    )
    tokens = len(windows) * (windows.shape[1] - settings.exclude_first)
    scales = ScalesFile(start, end, settings.epsilon, len(windows), tokens, bases)
    write_token_scales(step.write(arguments.scales), scales)
    for name, found in bases.items():
        step.note(f"sigma_d, {name}", found.all.sigma)
    step.note("dtype", compute.dtype_name)
    step.note("device", compute.device.type)
    step.note("threads", threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.measure_token_scales", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
