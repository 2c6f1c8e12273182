"""Train the patches of a pruned model so that it predicts what the dense model does.

An interrupted training goes on from its last checkpoint, which lies in ``.distillation`` beside the
patch until the step has succeeded.

By hand::

    python -m lpsteps.steps.distill --plan plan.json --start linearpatch/patch.manifest.json \
        --model resources/models/M/manifest.json --compute results/M/compute.json \
        --fit wikipedia=results/M/windows/wikipedia/calibration.parquet \
        --heldout wikipedia=results/M/windows/wikipedia/validation.parquet \
        --patch trained/patch.safetensors --manifest trained/patch.manifest.json \
        --training trained/training.parquet \
        --spec '{"recovery": "trained", "start": "linearpatch", "distillation": "kl",
                 "settings": {"top_k": 100}, "fit": [64], "heldout": [8]}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import write_parquet
from lpsteps.distillation.distiller import Distiller
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.distillation.step_inputs import (
    add_input_arguments,
    add_text_argument,
    read_inputs,
    run_key,
)
from lpsteps.distillation.teacher_store import TeacherStore
from lpsteps.distillation.text import joined_windows
from lpsteps.errors import LpstepsError
from lpsteps.patches import tensors_beside, write_patches
from lpsteps.program import StepRun, run_step
from lpsteps.training import AdamW, Checkpoints, LossCurve, Schedule, train
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: str = Field(description="Name of the recovery, an entry of the configuration")
    start: str = Field(description="Name of the recovery where the training starts")
    distillation: str = Field(description="Name of the distillation")
    settings: DistillationSettings = DistillationSettings()
    fit: list[int | None] = Field(
        min_length=1, description="Windows of each corpus, in the order of --fit; null for all"
    )
    heldout: list[int | None] = Field(
        min_length=1, description="Windows of each corpus, in the order of --heldout; null for all"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the run")


def _add_arguments(parser: ArgumentParser) -> None:
    add_input_arguments(parser)
    add_text_argument(parser, "--heldout", "choose the best state on")
    parser.add_argument("--teacher", type=Path, help="manifest of stored targets; mode offline")
    parser.add_argument("--patch", type=Path, required=True, help="output: tensors, safetensors")
    parser.add_argument("--manifest", type=Path, required=True, help="output: manifest, JSON")
    parser.add_argument("--training", type=Path, required=True, help="output: curve, Parquet")


def _loss(
    distiller: Distiller, fit: npt.NDArray[np.int64], store: TeacherStore | None
) -> Callable[[npt.NDArray[np.int64]], torch.Tensor]:
    """Return the loss of windows by their numbers, which are the same in text and store."""
    if store is None:
        return lambda numbers: distiller.fused_loss(torch.from_numpy(fit[numbers]))

    def stored(numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        targets, hidden = store.read(numbers)
        return distiller.stored_loss(torch.from_numpy(fit[numbers]), targets, hidden)

    return stored


def curve_table(
    curve: LossCurve, schedule: Schedule, optimiser: AdamW, *, windows: int, length: int
) -> pa.Table:
    """Return a training curve as a table with one row per step and one in front of the first.

    Args:
        curve: Losses of the steps that were taken.
        schedule: Epochs and batches of the training.
        optimiser: Its learning rates.
        windows: Windows of the text.
        length: Tokens of a window.

    Returns:
        ``step``: steps taken, from 0. ``epoch``: of the last step, from 1; 0 in front of the first.
        ``tokens``: read so far, those of each epoch counted. ``learning_rate`` and ``fit_loss`` of
        the last step, the loss before it was taken; null in front of the first. ``heldout_kl``:
        divergence after the step, null where it was not measured.
    """
    steps = len(curve.fit)
    per_epoch = schedule.steps_per_epoch(windows)
    rates = [optimiser.rate(step, schedule.epochs * per_epoch) for step in range(steps)]
    measured = dict(zip(curve.heldout_steps.tolist(), curve.heldout.tolist(), strict=True))
    counts = range(steps + 1)
    return pa.table(
        {
            "step": pa.array(counts, pa.int64()),
            "epoch": pa.array([-(-step // per_epoch) for step in counts], pa.int64()),
            "tokens": pa.array(
                [schedule.items_read(step, windows) * length for step in counts], pa.int64()
            ),
            "learning_rate": pa.array([None, *rates], pa.float64()),
            "fit_loss": pa.array([None, *curve.fit.tolist()], pa.float64()),
            "heldout_kl": pa.array([measured.get(step) for step in counts], pa.float64()),
        }
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(Settings, step.spec, "--spec")
    settings = spec.settings
    if tensors_beside(arguments.manifest) != arguments.patch:
        raise LpstepsError(
            f"--patch: {arguments.patch}: must be {tensors_beside(arguments.manifest)}, "
            "beside its manifest"
        )
    mode = settings.resolved_mode()
    if (mode == "offline") != (arguments.teacher is not None):
        raise LpstepsError(
            f"--teacher: {arguments.teacher}: mode {mode} "
            + ("reads stored targets" if mode == "offline" else "runs the teacher itself")
        )
    inputs = read_inputs(step, arguments, spec.fit, windows=settings.windows, seed=spec.seed)
    windows, length = inputs.fit.shape
    heldout_text = joined_windows("--heldout", arguments.heldout, spec.heldout, step.read)
    distiller = Distiller(inputs.model, inputs.plan, inputs.start, settings, seed=spec.seed)
    store = None
    if arguments.teacher is not None:
        assert settings.top_k is not None
        step.read_manifest(arguments.teacher)
        store = TeacherStore(arguments.teacher)
        store.require(inputs.store_facts(settings.top_k, distiller.branch))

    schedule = Schedule(
        settings.epochs,
        settings.batch,
        settings.micro_batch,
        settings.evaluations,
        settings.patience,
    )
    optimiser = AdamW(
        settings.learning_rate,
        settings.learning_rate * settings.final_learning_rate_share,
        weight_decay=settings.weight_decay,
        decay_towards_start=settings.decay_towards == "start",
        clip=settings.clip,
    )
    teacher = [] if arguments.teacher is None else [arguments.teacher]
    checkpoints = Checkpoints(
        arguments.manifest.parent / ".distillation",
        run_key(step, arguments, teacher),
        settings.checkpoint_every,
        step.logger,
    )
    curve = train(
        distiller.parameters,
        _loss(distiller, inputs.fit, store),
        windows,
        schedule,
        optimiser,
        evaluate=distiller.heldout(torch.from_numpy(heldout_text)).kl,
        seed=spec.seed,
        description=f"distilling {spec.recovery}",
        tokens_per_item=length,
        checkpoints=checkpoints,
    )
    patches = distiller.patch_set()

    step.note("mode", mode)
    step.note("steps", len(curve.fit))
    step.note("best_step", curve.best_step)
    step.note("tokens", schedule.items_read(len(curve.fit), windows) * length)
    step.note("resumed_from_step", curve.resumed_at)
    step.note("added_parameters", patches.parameters)
    write_patches(
        step.write(arguments.patch), step.write(arguments.manifest), patches, recovery=spec.recovery
    )
    table = curve_table(curve, schedule, optimiser, windows=windows, length=length)
    write_parquet(step.write(arguments.training), table)
    step.afterwards(checkpoints.remove)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.distill", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
