"""Add text of the model's own to the text that it is calibrated on.

By hand::

    python -m lpsteps.steps.extend_windows --model resources/models/M/manifest.json \
        --compute results/M/compute.json --windows results/M/windows/C/calibration.parquet \
        --extended results/M/calibration/C/windows.parquet \
        --spec '{"windows": 32, "generated": 48, "seed": 0}'

A repair that is fitted to one kind of text repairs that kind best. What a model writes by itself
has more kinds, and costs no data.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import write_parquet
from lpsteps.data.window_file import first_windows
from lpsteps.data.windows import Windows, bos_token, windows_table
from lpsteps.inputs import ModelInput
from lpsteps.models.tokenizer import load_tokenizer
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(ge=1, description="Windows of the corpus, the first ones")
    generated: int = Field(ge=1, description="Windows of the model's own")
    seed: int = Field(default=0, ge=0, description="Seed of the first tokens and of the draws")
    bos_in_windows: bool = Field(
        default=False, description="Generated windows begin with the BOS token, as the corpus's do"
    )


def spread(corpus: int, generated: int) -> list[bool]:
    """Return for each place of the extended text whether it holds a generated window.

    Both kinds are spread evenly, so that the first windows of the text are mixed as the whole is.
    """
    total = corpus + generated
    return [(place + 1) * generated // total > place * generated // total for place in range(total)]


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument("--windows", type=Path, required=True, help="windows of a corpus, Parquet")
    parser.add_argument("--extended", type=Path, required=True, help="output: windows, Parquet")


def _run(step: StepRun, arguments: Namespace) -> None:
    from lpsteps.models.sampling import sample_windows

    settings = validated(Settings, step.spec, "--spec")
    step.read_manifest(arguments.model)
    text = first_windows(step.read(arguments.windows), settings.windows)
    bos = None
    if settings.bos_in_windows:
        bos = bos_token(load_tokenizer(arguments.model.parent), "bos_in_windows")
    source = ModelInput(arguments.model.parent, step.read(arguments.compute), text)
    model = source.load()
    vocabulary = model.config.get_text_config().vocab_size
    # Any token may come first: models do not agree on one that starts a text.
    starts = np.random.default_rng(settings.seed).integers(vocabulary, size=(settings.generated, 1))
    if bos is not None:
        starts = np.insert(starts, 0, bos, axis=1)
    own = sample_windows(model, starts, text.shape[1], seed=settings.seed)

    queues = {False: iter(text), True: iter(own)}
    places = spread(len(text), len(own))
    token_ids = np.stack([next(queues[place]) for place in places]).astype(np.int32)
    names = ["generated" if place else "corpus" for place in places]
    offset = 0 if bos is None else 1
    windows = Windows(token_ids, [[name] for name in names], [[offset]] * len(names))
    for key, fact in source.facts().items():
        step.note(key, fact)
    step.note("seed", settings.seed)
    metadata = {"model": arguments.model.parent.name, "length": str(text.shape[1])}
    if settings.bos_in_windows:
        metadata["bos_in_windows"] = "true"
    write_parquet(step.write(arguments.extended), windows_table(windows, metadata))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.extend_windows", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
