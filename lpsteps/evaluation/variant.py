"""A variant in memory: the dense model, or one that was pruned, of layers or in its width."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError, nearest
from lpsteps.models.compute import configure_torch, read_compute
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.models.width import apply_width
from lpsteps.patches import read_patches, tensors_beside
from lpsteps.plan import read_plan
from lpsteps.width_pruning import read_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lpsteps.program import StepRun


class VariantSpec(BaseModel):
    """What every evaluation reads from its spec.

    Attributes:
        model: Name of the model.
        variant: Path of the variant below `results/{model}`: its lineage.
        seed: For whatever a protocol draws.
        batch_tokens: Most tokens in one forward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    variant: str
    seed: int = 0
    batch_tokens: int = Field(ge=1)


def add_variant_arguments(parser: ArgumentParser) -> None:
    """Add the options that say which variant to load."""
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model's folder")
    parser.add_argument("--compute", type=Path, required=True, help="compute.json of this machine")
    parser.add_argument("--plan", type=Path, help="plan.json; without it the model stays dense")
    parser.add_argument("--patch-manifest", type=Path, help="patch.manifest.json; needs --plan")
    parser.add_argument(
        "--width-manifest", type=Path, help="width.manifest.json; in place of --plan"
    )


def add_score_arguments(parser: ArgumentParser) -> None:
    """Add the option that says where the scores of a variant go."""
    parser.add_argument(
        "--score",
        action="append",
        required=True,
        metavar="BENCHMARK=PATH",
        help="output: score of a benchmark, JSON; once per benchmark",
    )


def paths_by_benchmark(
    option: str, assignments: Sequence[str], benchmarks: Sequence[str]
) -> dict[str, Path]:
    """Read the values of an option that is given once per benchmark as `BENCHMARK=PATH`.

    Args:
        option: The option, for the message.
        assignments: Its values.
        benchmarks: The benchmarks of this run.

    Raises:
        LpstepsError: A value has another form, or the names are not exactly the benchmarks.
    """
    paths: dict[str, Path] = {}
    for assignment in assignments:
        name, separator, path = assignment.partition("=")
        if not separator or not path:
            raise LpstepsError(f"{option}: {assignment}: expected BENCHMARK=PATH")
        if name not in benchmarks:
            raise LpstepsError(f"{option}: {name}: {nearest(name, benchmarks)}")
        paths[name] = Path(path)
    for name in benchmarks:
        if name not in paths:
            raise LpstepsError(f"{option}: {name}: is in the spec, but has no path here")
    return paths


def load_variant(step: StepRun, arguments: Namespace) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the model, remove the plan's layers and insert the patches, or cut its width.

    Returns:
        The model in evaluation mode, and the settings that every score states about it.

    Raises:
        LpstepsError: A file is missing, damaged or does not belong to the others.
    """
    if arguments.patch_manifest is not None and arguments.plan is None:
        raise LpstepsError(f"--patch-manifest: {arguments.patch_manifest}: needs --plan as well")
    if arguments.width_manifest is not None and arguments.plan is not None:
        raise LpstepsError(
            f"--width-manifest: {arguments.width_manifest}: a variant has this or --plan, not both"
        )
    threads = configure_torch()
    compute = read_compute(step.read(arguments.compute))
    step.read_manifest(arguments.model)
    plan = read_plan(step.read(arguments.plan)) if arguments.plan is not None else None
    patches = width = None
    if arguments.patch_manifest is not None:
        step.read(tensors_beside(step.read(arguments.patch_manifest)))
        patches = read_patches(arguments.patch_manifest)
    if arguments.width_manifest is not None:
        step.read(tensors_beside(step.read(arguments.width_manifest)))
        width = read_width(arguments.width_manifest)
    model = load_model(arguments.model.parent, compute.dtype, device=compute.device)
    if plan is not None:
        apply_plan(model, plan, patches)
    if width is not None:
        apply_width(model, width)
    step.note("device", compute.device.type)
    step.note("threads", threads)
    return model, {"dtype": compute.dtype_name}
