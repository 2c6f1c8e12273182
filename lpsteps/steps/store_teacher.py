"""Run the dense model once over a training text and store its most probable next tokens.

Trainings of several epochs read them in place of running the teacher again. An interrupted run goes
on from its last finished shard.

By hand::

    python -m lpsteps.steps.store_teacher --plan plan.json --start linearpatch/patch.manifest.json \
        --model resources/models/M/manifest.json --compute results/M/compute.json \
        --fit wikipedia=results/M/windows/wikipedia/calibration.parquet \
        --manifest teacher/linearpatch/k100-wall-hidden/manifest.json \
        --spec '{"settings": {"top_k": 100}, "fit": [64]}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.distillation.distiller import Distiller
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.distillation.step_inputs import add_input_arguments, read_inputs, run_key
from lpsteps.distillation.teacher_store import ShardWriter, StoreFacts, encoded_targets
from lpsteps.program import StepRun, run_step
from lpsteps.progress import track
from lpsteps.validation import validated


class StoreSettings(BaseModel):
    """The part of a distillation's settings that its store depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(default=100, ge=1, description="Tokens to keep at each position")
    windows: int | None = Field(
        default=None, ge=1, description="Windows of the shuffled text, the first ones; null for all"
    )
    store_hidden: bool = Field(
        default=True, description="Also store what enters the layer where teacher and student part"
    )


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: StoreSettings = StoreSettings()
    fit: list[int | None] = Field(
        min_length=1, description="Windows of each corpus, in the order of --fit; null for all"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order of the windows")


def _add_arguments(parser: ArgumentParser) -> None:
    add_input_arguments(parser)
    parser.add_argument(
        "--manifest", type=Path, required=True, help="output: manifest.json of the store's folder"
    )


def _shard(
    distiller: Distiller, windows: npt.NDArray[np.int64], facts: StoreFacts
) -> dict[str, torch.Tensor]:
    """Return the tensors of one shard."""
    parts = []
    for window in windows:
        targets, hidden = distiller.targets(torch.from_numpy(window[None]))
        part = encoded_targets(
            targets.log_probabilities.cpu().numpy(), targets.indices.cpu().numpy(), facts.vocabulary
        )
        tensors = {name: torch.from_numpy(values) for name, values in part.items()}
        parts.append({**tensors, "hidden": hidden.cpu()} if facts.hidden else tensors)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(Settings, step.spec, "--spec")
    target = step.write_folder(arguments.manifest)
    settings = spec.settings
    inputs = read_inputs(step, arguments, spec.fit, windows=settings.windows, seed=spec.seed)
    distiller = Distiller(
        inputs.model,
        inputs.plan,
        inputs.start,
        # The targets depend on no parametrisation; a factor of it suits every start.
        DistillationSettings(top_k=settings.top_k, parametrisation="scalar"),
        seed=spec.seed,
    )
    facts = inputs.store_facts(settings.top_k, distiller.branch, hidden=settings.store_hidden)
    writer = ShardWriter(
        arguments.manifest.parent / ".partial", run_key(step, arguments), step.logger
    )
    for name, numbers in track(facts.shards.items(), "storing targets", len(facts.shards)):
        if not writer.finished(name):
            writer.write(name, _shard(distiller, inputs.fit[numbers.start : numbers.stop], facts))
    step.note("windows", facts.windows)
    step.note("tokens", facts.windows * facts.length)
    writer.hand_over(facts, target)
    step.afterwards(writer.remove)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.store_teacher", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
