"""Read off a ranking which layers go when n of them shall go.

By hand::

    python -m lpsteps.steps.choose_layers --ranking ranking.parquet --plan plan.json \
        --spec '{"n": 5, "model": "smollm2-135m", "selection": "bi", "n_layers": 30}'
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError
from lpsteps.plan import Plan, write_plan
from lpsteps.program import StepRun, run_step
from lpsteps.selection.ranking import choose, read_ranking
from lpsteps.validation import validated


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(description="Number of layers to remove")
    model: str = Field(description="Name of the model, for the plan")
    selection: str = Field(description="Name of the selection, for the plan")
    n_layers: int = Field(ge=2, description="Decoder layers of the dense model")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--ranking", type=Path, required=True, help="ranking, Parquet")
    parser.add_argument("--plan", type=Path, required=True, help="output: plan, JSON")


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(Settings, step.spec, "--spec")
    if not 0 < settings.n < settings.n_layers:
        raise LpstepsError(f"--spec: n: {settings.n}: allowed are 1 to {settings.n_layers - 1}")
    order = choose(read_ranking(step.read(arguments.ranking)), settings.n)
    plan = Plan.removing(settings.n_layers, order)
    step.logger.info("removing %s, gaps %s", plan.order, plan.gaps)
    write_plan(step.write(arguments.plan), plan, model=settings.model, selection=settings.selection)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step and return its exit status."""
    return run_step("lpsteps.steps.choose_layers", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
