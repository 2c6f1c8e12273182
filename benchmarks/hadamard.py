"""The rotation through Kronecker factors beside the product with the dense Hadamard matrix.

Run it with ``make bench-hadamard``. Both rotate the same float32 rows, as calibration does at every
boundary. The operations that the factors save are not all saved time: their products are small.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

import torch

from benchmarks.measure import (
    figure,
    interleaved_seconds,
    median_of_ratios,
    medians,
    run_benchmark,
)
from lpsteps.calibration import Rotation
from lpsteps.hadamard import basis_matrix
from lpsteps.models.compute import configure_torch, default_device

SIZES = (576, 2048, 3584, 4096)


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure both for every size; returns what ``results/hadamard.json`` holds."""
    threads = configure_torch()
    device = default_device()
    generator = torch.Generator().manual_seed(0)
    contenders = {}
    names = {}
    for size in arguments.sizes:
        basis = basis_matrix(size)
        names[size] = basis.name
        rows = torch.randn((arguments.rows, size), generator=generator).to(device)
        dense = torch.tensor(basis.matrix, dtype=torch.float32, device=device)
        contenders[f"factors {size}"] = partial(repeated, Rotation(basis, device), rows)
        contenders[f"dense {size}"] = partial(repeated, partial(multiplied, dense), rows)
    with torch.inference_mode():
        seconds = interleaved_seconds(contenders, arguments.repetitions)
    return {
        "settings": {
            "bases": {str(size): name for size, name in names.items()},
            "device": device.type,
            "repetitions": arguments.repetitions,
            "rows": arguments.rows,
            "threads": threads,
        },
        "figures": [
            figure(
                f"dense product over factors, {size} channels",
                median_of_ratios(seconds[f"dense {size}"], seconds[f"factors {size}"]),
                at_least=1.0,
            )
            for size in arguments.sizes
        ],
        "seconds": {name: round(value, 6) for name, value in medians(seconds).items()},
    }


def multiplied(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the rows times the matrix."""
    return rows @ matrix


def repeated(rotate: Any, rows: torch.Tensor) -> None:
    """Rotate a few times, so that a run is long enough for the clock."""
    for _ in range(5):
        rotate(rows)
    if rows.device.type == "cuda":
        torch.cuda.synchronize()


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="hidden sizes")
    parser.add_argument("--rows", type=int, default=512, help="rows, one for each token")
    parser.add_argument("--repetitions", type=int, default=11, help="measured runs")


def main() -> int:
    """Measure and write ``results/hadamard.json``."""
    return run_benchmark("hadamard", add_arguments, measured)


if __name__ == "__main__":
    raise SystemExit(main())
