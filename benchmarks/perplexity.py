"""Perplexity beside a forward pass of the whole model, which also computes all logits.

Run it with ``make bench-perplexity``. Both see the same windows one at a time. The forward pass
returns the logits and does nothing with them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.inputs import Inputs, add_model_arguments, add_window_arguments, read_inputs
from benchmarks.measure import (
    figure,
    interleaved_seconds,
    median_of_ratios,
    medians,
    peak_memory_of,
    run_benchmark,
)
from lpsteps.evaluation.perplexity import window_losses

FORWARD, OURS = "forward pass with logits", "perplexity"


def forward_with_logits(inputs: Inputs) -> None:
    """Run the whole model over the windows, one by one, without a key-value cache."""
    with torch.inference_mode():
        for window in torch.from_numpy(inputs.windows):
            inputs.model(input_ids=window[None].to(inputs.model.device), use_cache=False)
    inputs.synchronise()


def contenders(inputs: Inputs) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    return {
        FORWARD: partial(forward_with_logits, inputs),
        OURS: partial(window_losses, inputs.model, inputs.windows),
    }


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure both; returns what ``results/perplexity.json`` holds."""
    # Before this process grows: a process starts with the peak of the one that it comes from.
    peaks = {
        name: peak_memory_of("benchmarks.perplexity", *sys.argv[1:], "--only", name)
        for name in (FORWARD, OURS)
    }
    inputs = read_inputs(arguments)
    seconds = interleaved_seconds(contenders(inputs), arguments.repetitions)
    return {
        "settings": {**inputs.settings, "repetitions": arguments.repetitions},
        "figures": [
            figure(
                "perplexity over forward pass with logits",
                median_of_ratios(seconds[OURS], seconds[FORWARD]),
                at_most=1.1,
            ),
            figure(
                "additional memory over the forward pass",
                (peaks[OURS] - peaks[FORWARD]) / 1e6,
                "MB",
            ),
        ],
        "seconds": {name: round(value, 4) for name, value in medians(seconds).items()},
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    add_model_arguments(parser)
    add_window_arguments(parser, count=2)
    parser.add_argument(
        "--only", choices=(FORWARD, OURS), help="run one twice and print its peak memory"
    )


def main() -> int:
    """Measure and write ``results/perplexity.json``."""
    return run_benchmark(
        "perplexity",
        add_arguments,
        measured,
        contender=lambda arguments: contenders(read_inputs(arguments))[arguments.only],
    )


if __name__ == "__main__":
    raise SystemExit(main())
