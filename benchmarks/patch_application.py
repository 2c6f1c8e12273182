"""What the patch costs where it is applied, beside a decoder layer and LLM-Streamline's network.

Run it with ``make bench-patch_application``. The operations are those of the step
``measure_overheads``; here they are measured for one model at one length, so that the paper's claim
of a patch 190 times faster than the network can be held against something.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import torch

from benchmarks.inputs import add_model_arguments, read_model
from benchmarks.measure import figure, run_benchmark
from lpsteps.overheads.operations import measure_operations

TITLES = {
    "layer": "decoder layer",
    "ffn": "feed-forward network",
    "patch-rotated": "scales between fast rotations",
}


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure all operations; returns what ``results/patch_application.json`` holds."""
    model = read_model(arguments)
    found = measure_operations(
        model,
        batch=arguments.batch,
        length=arguments.length,
        repetitions=arguments.repetitions,
        seconds=arguments.seconds,
        seed=0,
    )
    operations = {str(name): facts for name, facts in found.operations.items()}
    return {
        "settings": {
            "basis": found.basis,
            "batch": arguments.batch,
            "device": model.device.type,
            "dtype": str(model.dtype).removeprefix("torch."),
            "layer": found.layer,
            "length": arguments.length,
            "repetitions": found.repetitions,
            "threads": torch.get_num_threads(),
        },
        "figures": [
            figure(
                f"{title} over patch, {phase}",
                getattr(operations[name].relative, phase).median,
            )
            for name, title in TITLES.items()
            for phase in ("prefill", "decode")
        ],
        "seconds": {
            f"{name}, {phase}": round(getattr(facts, f"{phase}_ms").median / 1000, 6)
            for name, facts in operations.items()
            for phase in ("prefill", "decode")
        },
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    add_model_arguments(parser)
    parser.set_defaults(repetitions=50)
    parser.add_argument("--batch", type=int, default=1, help="windows that run together")
    parser.add_argument("--length", type=int, default=512, help="tokens of each")
    parser.add_argument("--seconds", type=float, default=8, help="time for either phase")


def main() -> int:
    """Measure and write ``results/patch_application.json``."""
    return run_benchmark("patch_application", add_arguments, measured)


if __name__ == "__main__":
    raise SystemExit(main())
