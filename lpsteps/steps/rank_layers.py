"""Score every candidate for removal and write the whole ranking.

By hand::

    python -m lpsteps.steps.rank_layers --stats stats.parquet --ranking ranking.parquet --spec \
        '{"selection": "bi", "metric": "block_influence", "counts": [5], "n_layers": 30}'
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
from lpsteps.methods import selection_method
from lpsteps.program import StepRun, run_step
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import choose, write_ranking
from lpsteps.statistics import Statistics
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    selection: str = Field(description="Name of the selection, an entry of the configuration")
    metric: str = Field(description="Module of lpsteps.selection that does the work")
    params: dict[str, Any] = Field(default={}, description="Parameters of the metric")
    counts: list[int] = Field(min_length=1, description="Numbers of layers to remove")
    n_layers: int = Field(ge=2, description="Decoder layers of the dense model")
    windows: int | None = Field(
        default=None, ge=1, description="Windows for a metric that runs the model; null for all"
    )
    exclude_first: int = Field(
        default=0, ge=0, description="Tokens of each of these windows that must not count"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the run")
    modules: list[str] = Field(default=[], description="Method modules, for the record")


def _wanted_counts(settings: Settings) -> tuple[int, ...]:
    for n in settings.counts:
        if not 0 < n < settings.n_layers:
            raise LpstepsError(
                f"--spec: counts: {n}: allowed are 1 to {settings.n_layers - 1}, "
                f"the model has {settings.n_layers} layers"
            )
    return tuple(sorted(set(settings.counts)))


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--stats", type=Path, help="calibration statistics, Parquet")
    parser.add_argument("--model", type=Path, help="manifest of the model's folder")
    parser.add_argument("--windows", type=Path, help="calibration windows, Parquet")
    parser.add_argument("--compute", type=Path, help="compute.json of this machine")
    parser.add_argument("--ranking", type=Path, required=True, help="output: ranking, Parquet")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    metric = selection_method(settings.metric)
    params = validated(metric.Params, settings.params, f"--spec: {settings.selection}: params")
    counts = _wanted_counts(settings)

    statistics = model = None
    if "statistics" in metric.NEEDS and arguments.stats:
        statistics = Statistics.read(step.read(arguments.stats))
    if "model" in metric.NEEDS and arguments.model and arguments.windows and arguments.compute:
        step.read_manifest(arguments.model)
        model = ModelInput(
            folder=arguments.model.parent,
            compute=step.read(arguments.compute),
            text=first_windows(step.read(arguments.windows), settings.windows),
            exclude_first=settings.exclude_first,
        )
    context = SelectionContext(settings.n_layers, counts, settings.seed, statistics, model)
    ranking = metric.rank(context, params)

    for n in counts:
        try:
            order = choose(ranking, n)
        except LpstepsError as error:
            # A cheap metric is asked for every n, also for more layers than it may take.
            if n == counts[0]:
                raise
            step.logger.info("%s: %s", settings.selection, error)
        else:
            step.logger.info("%s gives up %d layers in the order %s", settings.selection, n, order)
    if model is not None:
        for key, fact in model.facts().items():
            step.note(key, fact)
    step.note("seed", settings.seed)
    write_ranking(step.write(arguments.ranking), ranking)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.rank_layers", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
