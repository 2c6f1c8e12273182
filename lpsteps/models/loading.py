"""Loading models from local folders, and one set-up of torch for all steps."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lpsteps.address_space import require_address_space
from lpsteps.artifacts import read_json
from lpsteps.data.checkpoints import trusts_code
from lpsteps.errors import LpstepsError, first_line, nearest
from lpsteps.models.families import check_family, check_remote_code, needs_code
from lpsteps.models.gpu_slots import claim_slot
from lpsteps.models.layers import check_head
from lpsteps.models.spreading import SHARE, devices_needed, spread, weight_bytes
from lpsteps.program import THREADS

# Options of mallopt in glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Compute:
    """What the model runs on: the contents of `compute.json`."""

    dtype: torch.dtype
    device: torch.device

    @property
    def dtype_name(self) -> str:
        """The number type as records and messages call it, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")


def configure_torch() -> int:
    """Make torch repeatable and give it every core of the process.

    The number of threads changes rounding, so it must depend on the machine only, not on how many
    jobs a workflow engine runs: it is the CPU affinity of the process, or `LPSTEPS_THREADS`.

    Returns:
        The number of threads.

    Raises:
        LpstepsError: `LPSTEPS_THREADS` is not a positive integer, or no memory is left.
    """
    require_address_space()
    text = os.environ.get(THREADS, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise LpstepsError(f"{THREADS}: {text}: must be a positive integer")
    _keep_freed_memory()
    threads = int(text) if text else _usable_cores()
    torch.set_num_threads(threads)
    # Without a fixed workspace cuBLAS is not deterministic; it is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Comes with it: every new tensor is filled once before it is written. Nothing here reads what
    # was not written, and the fills take as long as an element-wise operation on each activation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Float32 means float32: no TF32 in the statistics and patches of a GPU run.
    torch.set_float32_matmul_precision("highest")
    return threads


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones.

    By default glibc soon hands it back, and the system clears every page anew for the next
    activation of the same size: several times the work of an element-wise operation on it. Tensors
    of more than 32 MiB, as the largest weights and logits, are still handed back. Where the library
    does not know these options, nothing changes but the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype that a config calls `name`.

    float16 is not offered: its range is too small for the largest activations of some models.

    Raises:
        LpstepsError: The name is unknown.
    """
    if name not in _DTYPES:
        raise LpstepsError(f"dtype: {name}: {nearest(name, _DTYPES)}")
    return _DTYPES[name]


def default_device() -> torch.device:
    """Return a CUDA device that no other job here uses, if there is one, else the CPU."""
    return own_gpu() if torch.cuda.is_available() else torch.device("cpu")


@cache
def own_gpu() -> torch.device:
    """Return the CUDA device of this process, the same one at each call.

    Jobs that run side by side each get another of the devices that they see; where there are fewer
    devices than jobs, the rest share the first.
    """
    claimed = _claim_gpu(())
    device = torch.device("cuda", 0 if claimed is None else claimed)
    # Whatever names no device means this one, and takes no memory of another.
    torch.cuda.set_device(device)
    return device


def _claim_gpu(besides: Collection[int]) -> int | None:
    """Lock a CUDA device that no other process has locked; returns its index, None without one.

    Args:
        besides: Devices that are this process's own already.
    """
    indices = [index for index in range(torch.cuda.device_count()) if index not in besides]
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in indices]
    slot = claim_slot(names, Path(tempfile.gettempdir()))
    return None if slot is None else indices[slot.index]


@cache
def _further_gpus() -> list[int]:
    """Indices of the devices that this process has locked besides its first; the list grows."""
    return []


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
    size, indices = int(copies * weight_bytes(model)), [device.index, *_further_gpus()]
    while True:
        free = [torch.cuda.mem_get_info(index)[0] for index in indices]
        count = devices_needed(size, free)
        if count is not None:
            break
        claimed = _claim_gpu(indices)
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
        _further_gpus().append(claimed)
        indices.append(claimed)
    if count == 1:
        return cast(PreTrainedModel, model.to(device))
    spread(model, [torch.device("cuda", index) for index in indices[:count]], free[:count])
    return model


def read_compute(path: Path) -> Compute:
    """Read `compute.json`, the dtype and device chosen for this machine.

    Raises:
        LpstepsError: It is missing or malformed, or names a device that this process does not see.
    """
    payload = read_json(path)
    try:
        dtype, device = torch_dtype(payload["dtype"]), payload["device"]
    except KeyError as error:
        raise LpstepsError(f"{path}: {error.args[0]}: missing; delete it to rebuild it") from error
    if device not in ("cpu", "cuda"):
        raise LpstepsError(f"{path}: device: {device}: {nearest(str(device), ('cpu', 'cuda'))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise LpstepsError(
            f"{path}: device: cuda: no GPU is visible here; delete it to choose again"
        )
    return Compute(dtype, own_gpu() if device == "cuda" else torch.device("cpu"))


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
    """Check that every weight came from the files: the library makes up the others at random.

    Args:
        folder: Folder of the model.
        found: What the library says of the loading.

    Raises:
        LpstepsError: A weight is not in the files, or has another shape there.
    """
    remedy = f"{folder}/config.json and the weights are not of one model; fetch both again"
    for name, there, wanted in sorted(found["mismatched_keys"]):
        raise LpstepsError(
            f"{folder}: {name}: has the shape {list(there)}, not {list(wanted)}: {remedy}"
        )
    for name in sorted(found["missing_keys"]):
        raise LpstepsError(f"{folder}: {name}: is not in the weights: {remedy}")
