"""What the steps of a distillation read alike: teacher, cut, start of the training, and text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import PreTrainedModel

from lpsteps import fingerprint
from lpsteps.artifacts import canonical_json, sha256_bytes, sha256_file
from lpsteps.distillation.teacher_store import StoreFacts, tokens_digest
from lpsteps.distillation.text import drawn_windows, joined_windows
from lpsteps.models.compute import configure_torch, read_compute
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.patches import PatchSet, read_patches, tensors_beside
from lpsteps.plan import Plan, read_plan
from lpsteps.program import StepRun


@dataclass(frozen=True, eq=False)
class DistillationInputs:
    """The inputs, checked and in memory.

    Attributes:
        model: The dense model, frozen.
        dtype: What it computes in, as in the configuration.
        plan: The removed layers.
        start: The patches where the training starts.
        fit: Token ids of the windows to train on, int64 ``[windows, length]``, in the order in
            which items are numbered.
        model_sha256: Digest of the manifest of the model's folder.
    """

    model: PreTrainedModel
    dtype: str
    plan: Plan
    start: PatchSet
    fit: npt.NDArray[np.int64]
    model_sha256: str

    def store_facts(self, top_k: int, branch: int, *, hidden: bool = True) -> StoreFacts:
        """Return what a store of this teacher's targets on this text holds.

        Args:
            top_k: Tokens kept at each position.
            branch: Number of the layer whose input the hidden states are.
            hidden: Whether they are stored.
        """
        windows, length = self.fit.shape
        return StoreFacts(
            model_sha256=self.model_sha256,
            tokens_sha256=tokens_digest(self.fit),
            windows=windows,
            length=length,
            hidden_size=self.model.config.get_text_config().hidden_size,
            top_k=top_k,
            vocabulary=len(decoder_of(self.model).lm_head.get_parameter("weight")),
            dtype=self.dtype,
            branch=branch,
            hidden=hidden,
        )


def add_input_arguments(parser: ArgumentParser) -> None:
    """Add the options that :func:`read_inputs` reads."""
    parser.add_argument("--plan", type=Path, required=True, help="plan, JSON")
    parser.add_argument(
        "--start", type=Path, required=True, help="patch manifest where the training starts"
    )
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    add_text_argument(parser, "--fit", "train on")


def add_text_argument(parser: ArgumentParser, option: str, purpose: str) -> None:
    """Add an option for the windows of one or more corpora."""
    parser.add_argument(
        option,
        action="extend",
        nargs="+",
        required=True,
        metavar="CORPUS=PATH",
        help=f"windows of a corpus to {purpose}, Parquet; in the order of the spec's counts",
    )


def read_inputs(
    step: StepRun,
    arguments: Namespace,
    counts: Sequence[int | None],
    *,
    windows: int | None,
    seed: int,
) -> DistillationInputs:
    """Set up torch, read the inputs and note what the model runs on.

    Args:
        step: The run of the step.
        arguments: Its command line.
        counts: Windows wanted of each corpus; None for all.
        windows: Windows wanted of all of them, shuffled; None for all.
        seed: Seed of that order.

    Raises:
        LpstepsError: A file is missing, damaged or too small.
    """
    step.note("threads", configure_torch())
    text = joined_windows("--fit", arguments.fit, counts, step.read)
    fit = drawn_windows(text, windows, seed)
    plan = read_plan(step.read(arguments.plan))
    step.read(tensors_beside(step.read(arguments.start)))
    start = read_patches(arguments.start)
    compute = read_compute(step.read(arguments.compute))
    dtype = compute.dtype_name
    step.read_manifest(arguments.model)
    model = load_model(arguments.model.parent, compute.dtype, device=compute.device)
    step.note("dtype", dtype)
    step.note("device", compute.device.type)
    step.note("seed", seed)
    return DistillationInputs(model, dtype, plan, start, fit, sha256_file(arguments.model))


def run_key(step: StepRun, arguments: Namespace, manifests: Sequence[Path] = ()) -> str:
    """Return a digest of everything that the result of a run depends on.

    Work that an interrupted run has left is of use to one with the same key only.

    Args:
        step: The run of the step.
        arguments: Its command line.
        manifests: Further files that speak for its inputs.
    """
    text = [*arguments.fit, *getattr(arguments, "heldout", [])]
    files = [
        arguments.model,
        arguments.compute,
        arguments.plan,
        arguments.start,
        *(Path(assignment.partition("=")[2]) for assignment in text),
        *manifests,
    ]
    facts = {
        "spec": step.spec,
        "code": fingerprint.closure([step.module]),
        "libraries": [torch.__version__, transformers.__version__],
        "threads": torch.get_num_threads(),
        "inputs": [sha256_file(path) for path in files],
    }
    return sha256_bytes(canonical_json(facts).encode())
