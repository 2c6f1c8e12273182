"""The moments behind the least-squares repairs beside the forward pass that they ride on.

Run it with ``make bench-least_squares``. The forward pass ends where that of the moments does, at
the end of the gap. The products are float64, so that on most devices they cost more than their
share of operations.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.inputs import (
    PLAN_FOLDER,
    Inputs,
    add_model_arguments,
    add_window_arguments,
    read_inputs,
)
from benchmarks.measure import (
    figure,
    interleaved_seconds,
    median_of_ratios,
    medians,
    run_benchmark,
)
from lpsteps.least_squares import added_regression, heldout_errors
from lpsteps.models.gap_moments import gap_moments
from lpsteps.models.gap_pass import run_until
from lpsteps.plan import read_plan

FORWARD, STREAM, BRANCH, RIDGE = (
    "forward pass up to the gap's end",
    "moments of the stream",
    "moments with those of the branch",
    "solutions for all ridges",
)


def forward_to(inputs: Inputs, end: int) -> None:
    """Run the layers in front of `end` over the windows, one by one."""
    for window in torch.from_numpy(inputs.windows):
        run_until(inputs.model, window[None], end)
    inputs.synchronise()


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure all contenders; returns what ``results/least_squares.json`` holds."""
    inputs = read_inputs(arguments)
    gaps = read_plan(arguments.plan).gaps
    moments = partial(gap_moments, inputs.model, inputs.windows, gaps)
    (gap, *_) = moments()
    fit, heldout = added_regression(gap.fit), added_regression(gap.heldout)
    seconds = interleaved_seconds(
        {
            FORWARD: partial(forward_to, inputs, gaps[-1][1]),
            STREAM: moments,
            BRANCH: partial(moments, branch=True),
            RIDGE: partial(heldout_errors, fit, heldout),
        },
        arguments.repetitions,
    )
    tokens = inputs.windows.size
    return {
        "settings": {
            **inputs.settings,
            "gaps": [list(gap) for gap in gaps],
            "repetitions": arguments.repetitions,
        },
        "figures": [
            figure(f"{STREAM} over {FORWARD}", median_of_ratios(seconds[STREAM], seconds[FORWARD])),
            figure(f"{BRANCH} over {FORWARD}", median_of_ratios(seconds[BRANCH], seconds[FORWARD])),
            figure(f"{STREAM}", tokens / medians(seconds)[STREAM], "tokens/s"),
            figure(f"{RIDGE} of one gap", medians(seconds)[RIDGE], "s"),
        ],
        "seconds": {name: round(value, 4) for name, value in medians(seconds).items()},
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    add_model_arguments(parser)
    add_window_arguments(parser, count=2)
    parser.add_argument("--plan", type=Path, default=PLAN_FOLDER / "plan.json", help="plan, JSON")


def main() -> int:
    """Measure and write ``results/least_squares.json``."""
    return run_benchmark("least_squares", add_arguments, measured)


if __name__ == "__main__":
    raise SystemExit(main())
