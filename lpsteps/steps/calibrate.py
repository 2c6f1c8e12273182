"""Run the model once over the calibration windows and write their statistics.

By hand::

    python -m lpsteps.steps.calibrate --model resources/models/M/manifest.json \
        --windows results/M/windows/C/calibration.parquet --compute results/M/compute.json \
        --stats stats.parquet --spec '{"windows": 16}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.calibration import stream_statistics
from lpsteps.data.window_file import first_windows
from lpsteps.hadamard import BasisKind, basis_matrix
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.compute import configure_torch, read_compute
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.program import StepRun, run_step
from lpsteps.progress import track
from lpsteps.statistics import StatisticsWriter
from lpsteps.validation import validated


class CalibrationSettings(BaseModel):
    """What the step reads from its spec.

    Attributes:
        windows: How many windows to use, the first ones of the file.
        exclude_first: Tokens at the start of each window that are left out of the means.
        batch: Windows per forward pass.
        basis: The rotated basis.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(default=16, ge=1)
    exclude_first: int = Field(default=0, ge=0)
    batch: int = Field(default=1, ge=1)
    basis: BasisKind = "hadamard"


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--windows", type=Path, required=True, help="calibration windows, Parquet")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument("--stats", type=Path, required=True, help="output: statistics, Parquet")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(CalibrationSettings, step.spec, "--spec")
    threads = configure_torch()
    windows = first_windows(step.read(arguments.windows), settings.windows)
    compute = read_compute(step.read(arguments.compute))
    step.read_manifest(arguments.model)
    model_folder = arguments.model.parent
    model = load_model(model_folder, compute.dtype, device=compute.device)
    use_causal_attention(model)
    hidden_size = model.config.hidden_size
    basis = basis_matrix(hidden_size, settings.basis)

    samples = stream_statistics(
        model,
        windows,
        basis,
        basis_kind=settings.basis,
        batch=settings.batch,
        exclude_first=settings.exclude_first,
    )
    with StatisticsWriter(
        step.write(arguments.stats),
        n_layers=len(decoder_of(model).layers),
        hidden_size=hidden_size,
        basis_name=basis.name,
        model=model_folder.name,
    ) as writer:
        for sample in track(samples, "calibrate", total=len(windows)):
            writer.append(sample)

    step.note("basis", basis.name)
    step.note("flatness", basis.flatness)
    step.note("tokens", len(windows) * (windows.shape[1] - settings.exclude_first))
    step.note("dtype", compute.dtype_name)
    step.note("device", compute.device.type)
    step.note("threads", threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's docstring for the command line."""
    return run_step("lpsteps.steps.calibrate", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
