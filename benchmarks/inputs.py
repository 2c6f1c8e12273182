"""Options that several benchmarks share; by default they name what the default profile builds."""

from __future__ import annotations

import copy
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from lpsteps.data.window_file import first_windows
from lpsteps.models.compute import configure_torch, read_compute, torch_dtype
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model

MODEL = Path("resources/models/smollm2-135m")
RESULTS = Path("results/smollm2-135m")
PLAN_FOLDER = RESULTS / "calibration/wikipedia/selection/llm-streamline/n5"


def add_model_arguments(parser: ArgumentParser) -> None:
    """Add the options that say on which model to measure, in which dtype, and how often."""
    parser.add_argument(
        "--compute",
        type=Path,
        default=RESULTS / "compute.json",
        help="compute.json of this machine",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="number type to compute in instead; the result's name ends in it",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=MODEL / "manifest.json",
        help="manifest of the model's folder",
    )
    parser.add_argument("--repetitions", type=int, default=5, help="measured runs")


def add_window_arguments(parser: ArgumentParser, *, count: int) -> None:
    """Add the options that say on which text to measure.

    Args:
        parser: Gets the options.
        count: Windows per run by default.
    """
    parser.add_argument(
        "--windows",
        type=Path,
        default=RESULTS / "windows/wikipedia/calibration.parquet",
        help="windows, Parquet",
    )
    parser.add_argument("--count", type=int, default=count, help="windows per run")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a benchmark runs.

    Attributes:
        model: The dense model.
        windows: Token ids, int64 ``[windows, length]``.
    """

    model: PreTrainedModel
    windows: npt.NDArray[np.int64]

    @property
    def settings(self) -> dict[str, object]:
        """What the figures depend on, for the result."""
        return {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "layers": len(decoder_of(self.model).layers),
            "threads": torch.get_num_threads(),
            "tokens_per_window": self.windows.shape[1],
            "windows": len(self.windows),
        }

    def synchronise(self) -> None:
        """Wait until the device has done its work."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def bare_forward(self) -> None:
        """Run the decoder stack over the windows, one by one, without the head and the cache."""
        backbone = decoder_of(self.model).backbone
        with torch.inference_mode():
            for window in torch.from_numpy(self.windows):
                backbone(input_ids=window[None].to(self.model.device), use_cache=False)
        self.synchronise()


def read_model(arguments: Namespace) -> PreTrainedModel:
    """Set up torch and load the model that :func:`add_model_arguments` names."""
    configure_torch()
    compute = read_compute(arguments.compute)
    dtype = torch_dtype(arguments.dtype) if arguments.dtype else compute.dtype
    return load_model(arguments.model.parent, dtype, device=compute.device)


def with_shared_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model whose layers and attention can change; the weights are no copies."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def read_inputs(arguments: Namespace) -> Inputs:
    """Read what the options of this module name."""
    windows = first_windows(arguments.windows, arguments.count)
    return Inputs(read_model(arguments), windows)
