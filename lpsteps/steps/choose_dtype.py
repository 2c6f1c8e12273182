"""Choose the dtype in which this machine runs a model, and write `compute.json`.

By hand::

    python -m lpsteps.steps.choose_dtype --model resources/models/M/manifest.json \
        --compute results/M/compute.json --spec '{"dtype": "auto"}'

`auto` takes bfloat16 only where it is clearly faster. A few processors, and GPUs since Ampere, have
instructions for it; elsewhere it is emulated, slower than float32 and less exact.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import read_json, write_json
from lpsteps.models.compute import DtypeName, StoredCompute, configure_torch, default_device
from lpsteps.models.families import model_size
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated

TOKENS = 512
REQUIRED_SPEEDUP = 1.3
_REPETITIONS = 7


class Settings(BaseModel):
    """What the step reads from its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Number type; auto: the faster one on this machine"
    )


def measure_speedup(hidden_size: int, intermediate_size: int, device: torch.device) -> float:
    """Measure how much faster a linear layer is in bfloat16 than in float32.

    Both dtypes take turns, so that a change of the processor's clock hits both, and the best time
    of each counts.

    Args:
        hidden_size: Input channels of the layer.
        intermediate_size: Output channels of the layer.
        device: Where to measure.

    Returns:
        Time in float32 over time in bfloat16, for 512 tokens.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(TOKENS, hidden_size, generator=generator).to(device)
    weight = torch.randn(intermediate_size, hidden_size, generator=generator).to(device)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    operands = {dtype: (tokens.to(dtype), weight.to(dtype)) for dtype in best}
    # The first turn pays for set-up; it loses against any later one.
    for _ in range(_REPETITIONS):
        for dtype, (rows, matrix) in operands.items():
            _wait_for(device)
            start = time.perf_counter()
            torch.nn.functional.linear(rows, matrix)
            _wait_for(device)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]


def choose(speedup: float) -> DtypeName:
    """Return the dtype for a measured speed-up of bfloat16 over float32."""
    return "bfloat16" if speedup >= REQUIRED_SPEEDUP else "float32"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _intermediate_size(config: dict[str, Any], hidden_size: int) -> int:
    # OPT calls it ffn_dim; a config may leave it out altogether.
    return int(config.get("intermediate_size") or config.get("ffn_dim") or 4 * hidden_size)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--compute", type=Path, required=True, help="output: compute.json")


def _run(step: StepRun, arguments: Namespace) -> None:
    dtype = validated(Settings, step.spec, "--spec").dtype
    threads = configure_torch()
    device = default_device()
    step.read(arguments.model)
    if dtype == "auto":
        config_path = step.read(arguments.model.parent / "config.json")
        config = read_json(config_path)
        hidden_size = model_size(config, "hidden_size", str(config_path))
        speedup = measure_speedup(hidden_size, _intermediate_size(config, hidden_size), device)
        dtype = choose(speedup)
        step.note("bfloat16_speedup", round(speedup, 3))
        step.logger.info("bfloat16 is %.2f times as fast as float32: %s", speedup, dtype)
    step.note("threads", threads)
    stored = StoredCompute(dtype=dtype, device="cuda" if device.type == "cuda" else "cpu")
    write_json(step.write(arguments.compute), stored.model_dump(by_alias=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's docstring for the command line."""
    return run_step("lpsteps.steps.choose_dtype", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
