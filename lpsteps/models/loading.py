"""Loading models from local folders onto their devices."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lpsteps.artifacts import read_json
from lpsteps.errors import LpstepsError, first_line
from lpsteps.models.compute import claim_gpu, default_device, further_gpus
from lpsteps.models.families import check_family, check_remote_code, needs_code
from lpsteps.models.layers import check_head
from lpsteps.models.spreading import SHARE, devices_needed, spread, weight_bytes
from lpsteps.models.stored_buffers import is_buffer
from lpsteps.models.trusted_code import trusts_code

# How many of the tensors that a model has no place for a message names.
_NAMED = 3


def move_to_device(
    model: PreTrainedModel, device: torch.device, *, copies: float = 1
) -> PreTrainedModel:
    """Put a model on a device, or on as many more GPUs as its weights need.

    Args:
        model: A causal language model of a known family, on the CPU.
        device: The CPU, or a CUDA device.
        copies: How many times its weights' memory is going to be needed, for copies or gradients.

    Returns:
        The model.

    Raises:
        LpstepsError: It does not fit into the GPUs that no other job uses.
    """
    if device.type != "cuda":
        return cast(PreTrainedModel, model.to(device))
    # What an earlier model has left is neither in use nor free.
    gc.collect()
    torch.cuda.empty_cache()
    size, indices = int(copies * weight_bytes(model)), [device.index, *further_gpus()]
    while True:
        free = [torch.cuda.mem_get_info(index)[0] for index in indices]
        count = devices_needed(size, free)
        if count is not None:
            break
        claimed = claim_gpu(indices)
        if claimed is None and len(indices) == 1 and weight_bytes(model) <= free[0]:
            # The only device there is may do: what else the job needs is not known beforehand.
            count = 1
            break
        if claimed is None:
            raise LpstepsError(
                f"{size / 1e9:.1f} GB for weights do not fit into {SHARE:.0%} of the "
                f"{sum(free) / 1e9:.1f} GB that are free on the {len(indices)} GPUs that this job "
                "can have; let it have more (gpus of the model in config/models.yaml, "
                "CUDA_VISIBLE_DEVICES)"
            )
        further_gpus().append(claimed)
        indices.append(claimed)
    if count == 1:
        return cast(PreTrainedModel, model.to(device))
    spread(model, [torch.device("cuda", index) for index in indices[:count]], free[:count])
    return model


def load_model(
    folder: Path,
    dtype: torch.dtype,
    *,
    device: torch.device | None = None,
    copies: float = 1,
) -> PreTrainedModel:
    """Load a causal language model for inference.

    Code that came with the model runs where the folder's manifest says that its entry trusts it.

    Attention is torch's scaled dot-product attention wherever the family supports it, else the
    eager one (Gemma 2, whose soft-capped attention scores it cannot express).

    Args:
        folder: A local folder with `config.json` and safetensors weights.
        dtype: The dtype of the weights in memory.
        device: Where to put it; by default a CUDA device of its own, else the CPU. One that does
            not fit into its GPU is spread over several, see :mod:`lpsteps.models.spreading`.
        copies: How many times its weights' memory is going to be needed, for copies or gradients.

    Returns:
        The model in evaluation mode, with no parameter that requires a gradient.

    Raises:
        LpstepsError: The folder does not hold such a model, or it does not fit into the GPUs.
    """
    if not (folder / "config.json").is_file():
        raise LpstepsError(f"{folder}: no config.json: not a model folder")
    trusted = trusts_code(folder)
    config = read_json(folder / "config.json")
    check_family(config, f"{folder}/config.json")
    check_remote_code(config, f"{folder}/config.json", trusted)
    # Steps show their own progress, and only on a terminal.
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trusted and needs_code(config),
            # What does not fit is told here, by name.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError) as error:
        remedy = "correct its config.json or update transformers"
        if isinstance(error, OSError):
            remedy = "fetch the model again"
        elif isinstance(error, ImportError):
            remedy = "install what is missing"
        raise LpstepsError(f"{folder}: cannot be loaded ({first_line(error)}); {remedy}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _check_loaded(folder, found)
    model.requires_grad_(False)
    model = move_to_device(model.eval(), device or default_device(), copies=copies)
    check_head(model)
    return model


def _check_loaded(folder: Path, found: Mapping[str, Any]) -> None:
    """Check that a model has all that its files hold, and nothing else.

    The library makes up at random what is not in the files, and leaves out what the model has no
    place for, such as biases that its config does not speak of.

    Args:
        folder: Folder of the model.
        found: What the library says of the loading.

    Raises:
        LpstepsError: A weight is not in the files, or has another shape there; or the files have a
            tensor that the model does not.
    """
    remedy = f"{folder}/config.json and the weights are not of one model; fetch both again"
    for name, there, wanted in sorted(found["mismatched_keys"]):
        raise LpstepsError(
            f"{folder}: {name}: has the shape {list(there)}, not {list(wanted)}: {remedy}"
        )
    for name in sorted(found["missing_keys"]):
        raise LpstepsError(f"{folder}: {name}: is not in the weights: {remedy}")
    unexpected = sorted(name for name in found["unexpected_keys"] if not is_buffer(name))
    if unexpected:
        named = ", ".join(unexpected[:_NAMED])
        more = f" and {len(unexpected) - _NAMED} more" if len(unexpected) > _NAMED else ""
        raise LpstepsError(
            f"{folder}: {named}{more}: in the weights, but a model as config.json describes it has "
            "no place for this; add the setting that makes one (such as attention_bias for biases "
            "of the attention) to the model's own config.json, or fetch both again"
        )
