"""Measure what a patch costs beside a feed-forward network and a decoder layer, and its targets.

Parameters, floating-point operations, and times of the prefill and of one more token, for the
overhead claims of arXiv 2505.24680, section 4.4 (there on batches of 16 windows of 2,048 tokens,
1,000 times, hidden size 4,096, float16); and the bytes of what a distillation compares with.

Times are no function of the inputs, so two runs do not give the same bytes here. The record ties
the file to its machine, and an audit checks it like any other.

By hand::

    python -m lpsteps.steps.measure_overheads --model resources/models/M/manifest.json \
        --compute results/M/compute.json --overheads results/M/overheads.json \
        --spec '{"batch": 1, "length": 512}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

from lpsteps import provenance
from lpsteps.artifacts import read_json, write_json
from lpsteps.distillation.teacher_store import TeacherStore
from lpsteps.models.compute import configure_torch, read_compute
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.overheads.measurements import Conditions, Overheads
from lpsteps.overheads.operations import measure_operations, most_tokens
from lpsteps.overheads.storage import storage_facts
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(default=1, ge=1, description="Windows that run together")
    length: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of each; null: window_length, or what the model takes in front of one "
        "more token",
    )
    window_length: int = Field(default=512, ge=1, description="Tokens of running text per window")
    repetitions: int = Field(default=100, ge=2, description="Turns to time")
    seconds: float = Field(
        default=30.0, gt=0, description="Time for the prefill, and for the decoding"
    )
    top_k: int = Field(default=100, ge=1, description="Tokens kept at each position of a text")
    tokens: int | None = Field(
        default=None, ge=1, description="Tokens of the training text; null if not known"
    )
    seed: int = Field(default=0, ge=0, description="Seed of random tokens and weights")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument(
        "--store", type=Path, help="manifest of a store of targets, if there is one"
    )
    parser.add_argument("--overheads", type=Path, required=True, help="output: overheads.json")


def _read_store(step: StepRun, path: Path) -> tuple[int, int]:
    """Return the bytes and the tokens of a store of targets, from its manifest."""
    facts = TeacherStore(step.read(path)).facts
    files = read_json(path)["files"].values()
    return sum(file["bytes"] for file in files), facts.windows * facts.length


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    threads = configure_torch()
    compute = read_compute(step.read(arguments.compute))
    step.read_manifest(arguments.model)
    store = _read_store(step, arguments.store) if arguments.store else None
    # One layer of it is measured, so that the rest never needs to fit into a GPU.
    model = load_model(arguments.model.parent, compute.dtype, device=torch.device("cpu"))
    most = most_tokens(model)
    usual = settings.window_length if most is None else min(settings.window_length, most - 1)
    length = settings.length or usual
    hidden_size = model.config.get_text_config().hidden_size
    vocabulary = len(decoder_of(model).lm_head.get_parameter("weight"))
    measured = measure_operations(
        model,
        device=compute.device,
        length=length,
        **settings.model_dump(include={"batch", "repetitions", "seconds", "seed"}),
    )
    dtype = compute.dtype_name
    overheads = Overheads(
        conditions=Conditions(
            device=compute.device.type,
            dtype=dtype,
            threads=threads,
            machine=provenance.machine(),
            libraries={name: metadata.version(name) for name in ("torch", "transformers")},
            batch=settings.batch,
            length=length,
            repetitions=measured.repetitions,
            layer=measured.layer,
            basis=measured.basis,
        ),
        operations=measured.operations,
        storage=storage_facts(
            top_k=settings.top_k,
            hidden_size=hidden_size,
            vocabulary=vocabulary,
            tokens=settings.tokens,
            store=store,
        ),
    )
    for name, facts in measured.operations.items():
        step.logger.info(
            "%s: %d parameters, prefill %.3g ms, one token %.3g ms",
            name,
            facts.parameters,
            facts.prefill_ms.median,
            facts.decode_ms.median,
        )
    step.note("dtype", dtype)
    step.note("device", compute.device.type)
    step.note("threads", threads)
    step.note("seed", settings.seed)
    write_json(step.write(arguments.overheads), overheads.model_dump(mode="json", by_alias=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.measure_overheads", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
