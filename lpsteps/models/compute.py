"""What the models of this process run on: dtype, device, and one set-up of torch for all steps."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits

from lpsteps.address_space import require_address_space
from lpsteps.errors import LpstepsError, nearest
from lpsteps.models.gpu_slots import claim_slot
from lpsteps.program import THREADS
from lpsteps.validation import validated_result

# Options of mallopt in glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

DtypeName = Literal["float32", "bfloat16"]

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


class StoredCompute(BaseModel):
    """The contents of `compute.json`: names of the number type and of the kind of device."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    version: Literal[1] = Field(default=1, alias="schema")
    dtype: DtypeName
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Compute:
    """What the model runs on, as `compute.json` says."""

    dtype: torch.dtype
    device: torch.device

    @property
    def dtype_name(self) -> str:
        """The number type as records and messages call it, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")


def configure_torch() -> int:
    """Make torch repeatable and give it, and NumPy's linear algebra, every core of the process.

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
    # NumPy's library would take the number that Snakemake sets, which depends on --cores.
    threadpool_limits(threads, user_api="blas")
    # Without a fixed workspace cuBLAS is not deterministic; it is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As use_deterministic_algorithms(True, warn_only=True), which imports torch's compiler as well,
    # to set an option of it.
    torch.set_deterministic_debug_mode("warn")
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
    claimed = claim_gpu(())
    device = torch.device("cuda", 0 if claimed is None else claimed)
    # Whatever names no device means this one, and takes no memory of another.
    torch.cuda.set_device(device)
    return device


def claim_gpu(besides: Collection[int]) -> int | None:
    """Lock a CUDA device that no other process has locked; returns its index, None without one.

    Args:
        besides: Devices that are this process's own already.
    """
    indices = [index for index in range(torch.cuda.device_count()) if index not in besides]
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in indices]
    slot = claim_slot(names, Path(tempfile.gettempdir()))
    return None if slot is None else indices[slot.index]


@cache
def further_gpus() -> list[int]:
    """Indices of the devices that this process has locked besides its first; the list grows."""
    return []


def read_compute(path: Path) -> Compute:
    """Read `compute.json`, the dtype and device chosen for this machine.

    Raises:
        LpstepsError: It is missing or malformed, or names a device that this process does not see.
    """
    stored = validated_result(StoredCompute, path)
    if stored.device == "cuda" and not torch.cuda.is_available():
        raise LpstepsError(
            f"{path}: device: cuda: no GPU is visible here; delete it to choose again"
        )
    device = own_gpu() if stored.device == "cuda" else torch.device("cpu")
    return Compute(torch_dtype(stored.dtype), device)
