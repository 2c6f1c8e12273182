"""Writing a pruned model as a checkpoint, and loading one as other programs do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lpsteps.artifacts import read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.export.custom_code import (
    custom_config,
    modeling_source,
    module_path_of,
    write_custom_code,
)
from lpsteps.export.settings import Form
from lpsteps.models.families import needs_code
from lpsteps.models.folding import fold_patches, folding_obstacle
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import move_to_device
from lpsteps.models.surgery import apply_plan, check_plan, surviving_layers
from lpsteps.models.width import apply_width
from lpsteps.patches import PatchSet
from lpsteps.plan import Plan
from lpsteps.width_pruning import WidthPruning

MAX_SHARD_SIZE = "5GB"
# Also lists of weights that are not copied, and settings and weights for another program, which say
# what the dense model is.
_WEIGHT_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin.index.json",
    "consolidated*",
    "params.json",
)
# The model's own are written with its weights.
_REWRITTEN = ("config.json", "generation_config.json", "README.md")


@dataclass(frozen=True, eq=False)
class Pruning:
    """What is done to a dense model: at most one of `plan` and `width`, `patches` with `plan`."""

    plan: Plan | None = None
    patches: PatchSet | None = None
    width: WidthPruning | None = None

    def form(self, family: str) -> Form:
        """Return how a model of a family can be written after this.

        Args:
            family: The model's `config.model_type`.
        """
        if self.width is not None:
            return "width_pruned"
        if self.patches is not None and folding_obstacle(self.patches, family) is not None:
            return "layer_pruned"
        return "stock"

    def folds(self, family: str) -> bool:
        """Return whether operations on the stream go into the weights, which rounds them anew."""
        operations = self.patches is not None and any(gap.operations for gap in self.patches.gaps)
        return operations and self.form(family) == "stock"


@torch.no_grad()
def write_checkpoint(
    model: PreTrainedModel, pruning: Pruning, folder: Path, template: str | None
) -> Form:
    """Prune a dense model in place and write it as config, weights and, where needed, code.

    Weights are written in the dtype of the model, those of patches in float32.

    Args:
        model: The dense model.
        pruning: What to do to it.
        folder: An existing folder.
        template: Source of the model class, as `modeling_source` takes it; None for a dense model.

    Returns:
        What was written.

    Raises:
        LpstepsError: The pruning does not belong to the model, or needs code that the family of
            the model does not allow.
    """
    form = pruning.form(model.config.model_type)
    source, entries, patches = None, {}, {}
    if form != "stock":
        if template is None:
            raise LpstepsError("--modeling: needed for a model that no stock architecture computes")
        source = modeling_source(template, model)
    if pruning.width is not None:
        apply_width(model, pruning.width)
        entries = {"widths": _widths(pruning.width)}
    elif pruning.plan is not None and form == "stock":
        fold_patches(model, pruning.plan, pruning.patches or PatchSet())
    elif pruning.plan is not None and pruning.patches is not None:
        entries = {"patches": _patch_entries(pruning.plan, pruning.patches)}
        patches = _prune_apart(model, pruning.plan, pruning.patches)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(
        folder,
        state_dict=model.state_dict() | patches,
        max_shard_size=MAX_SHARD_SIZE,
        # Names of the Hub's files that differ from the modules' are known of stock models alone.
        save_original_format=form == "stock",
    )
    config = read_json(folder / "config.json")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    if form != "stock" and source is not None:
        config |= custom_config(form, entries)
        write_custom_code(folder, form, source)
    elif not needs_code(config):
        # Code that came with the dense model did not compute the scores, and need not be there.
        config.pop("auto_map", None)
    write_json(folder / "config.json", config)
    return form


def _prune_apart(model: PreTrainedModel, plan: Plan, patches: PatchSet) -> dict[str, torch.Tensor]:
    """Prune a model without inserting its patches, and return their weights by their names."""
    check_plan(model, plan, patches)
    apply_plan(model, plan, PatchSet(replacements=patches.replacements, restored=patches.restored))
    decoder = decoder_of(model)
    entrances = [*decoder.layers, decoder.norm]
    return {
        f"{module_path_of(model, entrances[entrance])}.input_patch.weight_{number}": torch.tensor(
            operation.weight, dtype=torch.float32
        )
        for entrance, gap in zip(_entrances(plan, patches), patches.gaps, strict=True)
        for number, operation in enumerate(gap.operations)
    }


def _entrances(plan: Plan, patches: PatchSet) -> list[int]:
    """Return the number, in the pruned model, of the layer that each patch acts in front of."""
    survivors = surviving_layers(plan, patches)
    return [sum(layer < gap.end for layer in survivors) for gap in patches.gaps]


def _patch_entries(plan: Plan, patches: PatchSet) -> list[dict[str, Any]]:
    return [
        {
            "entrance": entrance,
            "operations": [
                {"kind": operation.kind, "shape": list(operation.weight.shape)}
                for operation in gap.operations
            ],
        }
        for entrance, gap in zip(_entrances(plan, patches), patches.gaps, strict=True)
    ]


def _widths(pruning: WidthPruning) -> list[dict[str, int]]:
    return [
        {"layer": layer, "key_value_heads": len(width.heads), "channels": len(width.channels)}
        for layer, width in sorted(pruning.layers.items())
    ]


def copy_companions(source: Path, names: Iterable[str], folder: Path) -> None:
    """Copy what lies beside a model's weights, such as its tokenizer, as it is.

    Args:
        source: Folder of the dense model.
        names: Its files.
        folder: The checkpoint's folder.
    """
    for name in sorted(names):
        weights = any(Path(name).match(pattern) for pattern in _WEIGHT_FILES)
        if not weights and name not in _REWRITTEN:
            shutil.copyfile(source / name, folder / name)


def load_checkpoint(folder: Path, *, device: torch.device, trusted: bool) -> PreTrainedModel:
    """Load a checkpoint by transformers alone, in the dtype that it was written in.

    Args:
        folder: Its folder.
        device: Where the model goes.
        trusted: Whether code in the folder may run.
    """
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, trust_remote_code=trusted
    )
    return move_to_device(model.eval().requires_grad_(False), device)
