"""Run the dense model once and write the moments of the stream around each gap of a plan.

By hand::

    python -m lpsteps.steps.measure_moments --model resources/models/M/manifest.json \
        --windows results/M/windows/C/calibration.parquet --compute results/M/compute.json \
        --plan plan.json --moments stream.safetensors --manifest stream.manifest.json \
        --spec '{"kind": "stream", "windows": 16}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.data.window_file import first_windows
from lpsteps.errors import LpstepsError
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.compute import configure_torch, read_compute
from lpsteps.models.gap_moments import gap_moments
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.moments import MomentsKind, moments_tensors, write_moments
from lpsteps.plan import read_plan
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: MomentsKind = Field(
        description="stream: of all tokens alike; weighted-stream: tokens count by their inverse "
        "squared norm; branch: with the MLP output in front of each gap told apart"
    )
    windows: int = Field(ge=2, description="Windows to use, the first ones of the file")
    exclude_first: int = Field(default=0, ge=0, description="Tokens to skip in each window")
    batch: int = Field(default=1, ge=1, description="Windows per forward pass")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, required=True, help="plan, JSON")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--windows", type=Path, required=True, help="calibration windows, Parquet")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument("--moments", type=Path, required=True, help="output: tensors, safetensors")
    parser.add_argument("--manifest", type=Path, required=True, help="output: manifest, JSON")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    expected = moments_tensors(arguments.manifest, settings.kind)
    if arguments.moments != expected:
        raise LpstepsError(
            f"--moments: {arguments.moments}: must be {expected}, beside its manifest"
        )
    threads = configure_torch()
    windows = first_windows(step.read(arguments.windows), settings.windows)
    plan = read_plan(step.read(arguments.plan))
    compute = read_compute(step.read(arguments.compute))
    step.read_manifest(arguments.model)
    model = load_model(arguments.model.parent, compute.dtype, device=compute.device)
    use_causal_attention(model)
    plan.require_layers(len(decoder_of(model).layers), str(arguments.plan))

    moments = gap_moments(
        model,
        windows,
        plan.gaps,
        weighting="inverse_norm" if settings.kind == "weighted-stream" else "uniform",
        branch=settings.kind == "branch",
        batch=settings.batch,
        exclude_first=settings.exclude_first,
    )

    step.note("dtype", compute.dtype_name)
    step.note("device", compute.device.type)
    step.note("threads", threads)
    write_moments(
        step.write(arguments.moments),
        step.write(arguments.manifest),
        moments,
        kind=settings.kind,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.measure_moments", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
