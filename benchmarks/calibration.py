"""One pass of calibration beside a bare forward pass and the procedure of the released code.

Run it with ``make bench-calibration``. Everything computes in the same dtype on the same windows,
one at a time:

- *bare forward*: the decoder stack, without the language-model head and without a key-value cache.
- *calibration*: every statistic of this project, of every boundary, both bases and all pairs of
  boundaries: what any number of layers, any selection and either basis are read from. Here it has
  the attention of the bare forward pass, so that the difference is the statistics' alone.
- *calibration step*: the same as the step runs it, with the attention of
  :mod:`lpsteps.models.causal_attention` where that takes its place.
- *released code*: its two passes for one number of layers in the Hadamard basis
  (:mod:`benchmarks.official_calibration`).
- *released code, grid*: the same for 3, 5 and 7 layers in both bases.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.inputs import (
    Inputs,
    add_model_arguments,
    add_window_arguments,
    read_inputs,
    with_shared_weights,
)
from benchmarks.measure import (
    figure,
    interleaved_seconds,
    median_of_ratios,
    medians,
    peak_memory_of,
    run_benchmark,
)
from benchmarks.official_calibration import official_calibration
from lpsteps.calibration import stream_statistics
from lpsteps.hadamard import basis_matrix
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.layers import decoder_of
from lpsteps.models.surgery import apply_plan
from lpsteps.plan import Plan

BARE, OURS, STEP = "bare forward", "calibration", "calibration step"
OFFICIAL, GRID = "released code", "released code, grid"
MORE_WINDOWS, FEWER_LAYERS = "calibration, more windows", "calibration, fewer layers"
MEASURED_FOR_MEMORY = (BARE, OURS, MORE_WINDOWS, OFFICIAL)
GRID_COUNTS = (3, 5, 7)
BASES = 2
# How many times more windows, and fewer layers, show that time is linear and memory constant.
FACTOR = 3


def calibrate(inputs: Inputs) -> None:
    """Measure every statistic, as the step ``calibrate`` does, and drop it."""
    basis = basis_matrix(inputs.model.config.hidden_size)
    for _ in stream_statistics(inputs.model, inputs.windows, basis):
        pass
    inputs.synchronise()


def run_official(inputs: Inputs, counts: tuple[int, ...], bases: tuple[bool, ...]) -> None:
    """Run the released code's procedure for some numbers of layers and bases, rotated or not."""
    for n in counts:
        for rotated in bases:
            official_calibration(inputs.model, inputs.windows, n, rotated=rotated)
    inputs.synchronise()


def as_in_the_step(inputs: Inputs) -> Inputs:
    """Return the same windows for a model with the step's attention, sharing its weights."""
    model = with_shared_weights(inputs.model)
    use_causal_attention(model)
    return Inputs(model, inputs.windows)


def with_fewer_layers(inputs: Inputs) -> Inputs:
    """Return the same windows for a model with one layer in :data:`FACTOR`, sharing its weights."""
    model = with_shared_weights(inputs.model)
    count = len(decoder_of(model).layers)
    apply_plan(model, Plan.removing(count, tuple(range(count // FACTOR, count))))
    return Inputs(model, inputs.windows)


def contenders(inputs: Inputs) -> dict[str, Callable[[], None]]:
    """Return everything that is measured on the first windows of `inputs`, by name.

    Args:
        inputs: The model and :data:`FACTOR` times as many windows as the others run on.
    """
    few = Inputs(inputs.model, inputs.windows[: len(inputs.windows) // FACTOR])
    counts = tuple(n for n in GRID_COUNTS if n < len(decoder_of(inputs.model).layers) - 1)
    return {
        BARE: few.bare_forward,
        OURS: partial(calibrate, few),
        STEP: partial(calibrate, as_in_the_step(few)),
        OFFICIAL: partial(run_official, few, counts[1:2], (True,)),
        GRID: partial(run_official, few, counts, (True, False)),
        MORE_WINDOWS: partial(calibrate, inputs),
        FEWER_LAYERS: partial(calibrate, with_fewer_layers(few)),
    }


def most_time(device: torch.device) -> float:
    """Return the limit that the project sets itself for the time over a bare forward pass."""
    return 1.2 if device.type == "cpu" else 1.1


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure all contenders; returns what ``results/calibration.json`` holds."""
    # Before this process grows: a process starts with the peak of the one that it comes from.
    peaks = {
        name: peak_memory_of("benchmarks.calibration", *sys.argv[1:], "--only", name)
        for name in MEASURED_FOR_MEMORY
    }
    inputs = read_inputs(arguments)
    seconds = interleaved_seconds(contenders(inputs), arguments.repetitions)
    layers = len(decoder_of(inputs.model).layers)
    hidden_size = inputs.model.config.hidden_size
    # Float64 means of every boundary in every basis, and two sums of them; and one batch.
    accumulators = 3 * layers * hidden_size * 8 * BASES
    batch = (layers + 1) * inputs.windows.shape[1] * hidden_size * inputs.model.dtype.itemsize

    def ratio(first: str, second: str) -> float:
        return median_of_ratios(seconds[first], seconds[second])

    def extra(name: str, base: str) -> float:
        return (peaks[name] - peaks[base]) / 1e6

    return {
        "settings": {
            **inputs.settings,
            "windows": len(inputs.windows) // FACTOR,
            "repetitions": arguments.repetitions,
        },
        "figures": [
            figure(
                "calibration over bare forward",
                ratio(OURS, BARE),
                at_most=most_time(inputs.model.device),
            ),
            figure("calibration as the step runs it over bare forward", ratio(STEP, BARE)),
            figure("released code over bare forward", ratio(OFFICIAL, BARE)),
            figure("released code over calibration", ratio(OFFICIAL, OURS), at_least=1.9),
            figure(
                "released code over calibration, for the grid of 3, 5 and 7 layers in both bases",
                ratio(GRID, OURS),
                at_least=6.0,
            ),
            figure(
                f"time for each window, with {FACTOR} times as many",
                ratio(MORE_WINDOWS, OURS) / FACTOR,
            ),
            figure(
                f"time for each layer, with {FACTOR} times as many",
                ratio(OURS, FEWER_LAYERS) * (layers // FACTOR) / layers,
            ),
            figure(
                "additional memory over the bare forward",
                extra(OURS, BARE),
                "MB",
                at_most=(accumulators + batch) / 1e6,
            ),
            figure(
                f"more memory for {FACTOR} times as many windows", extra(MORE_WINDOWS, OURS), "MB"
            ),
            figure("additional memory of the released code", extra(OFFICIAL, BARE), "MB"),
        ],
        "seconds": {name: round(value, 4) for name, value in medians(seconds).items()},
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    add_model_arguments(parser)
    add_window_arguments(parser, count=FACTOR)
    parser.add_argument(
        "--only", choices=MEASURED_FOR_MEMORY, help="run one twice and print its peak memory"
    )


def main() -> int:
    """Measure and write ``results/calibration.json``."""
    return run_benchmark(
        "calibration",
        add_arguments,
        measured,
        contender=lambda arguments: contenders(read_inputs(arguments))[arguments.only],
    )


if __name__ == "__main__":
    raise SystemExit(main())
