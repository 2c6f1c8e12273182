"""Tensors that say they are on one of several devices, compute on the CPU, and never mix.

There is no machine with two GPUs for the tests. What goes wrong on one is a tensor of one device
meeting one of another, and that shows here, with the numbers of the whole computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)


class _Backend(_DummyBackendModule):
    def device_count(self) -> int:
        return 2

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("placed", _Backend())
FIRST, SECOND = torch.device("placed:0"), torch.device("placed:1")
_MOVING = (torch.ops.aten.copy_.default,)
# These take indices from the CPU and, which a GPU does not, from another device.
_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)


# Tensors of their own class can be nothing but ordinary ones.
torch.inference_mode = torch.no_grad


class MixedDevicesError(RuntimeError):
    """What torch raises when tensors of several devices meet."""


class Placed(torch.Tensor):
    """A CPU tensor that says it is on a device."""

    content: torch.Tensor

    @staticmethod
    def __new__(cls, content: torch.Tensor, device: torch.device) -> Placed:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            content.size(),
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=device,
        )
        made.content = content
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.content.tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Placed({self.content!r}, {self.device})"


def _is_placed(device: torch.device | None) -> bool:
    return device is not None and device.type == FIRST.type


def _device_of(func: Any, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> torch.device:
    if func in _INDEXING:
        # The tensor and what is written to it; the indices come from anywhere.
        tensors = [value for value in (args[0], *args[2:3]) if isinstance(value, torch.Tensor)]
    # A number without dimensions goes everywhere from the CPU, and nowhere from another device.
    devices = {tensor.device for tensor in tensors if tensor.dim() > 0 or _is_placed(tensor.device)}
    if len(devices) > 1 and func not in _MOVING:
        raise MixedDevicesError(f"{func}: {', '.join(sorted(map(str, devices)))}")
    return next(iter(devices), torch.device("cpu"))


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    devices = [value for value in flat if isinstance(value, torch.device)]
    # Where the result is to be, or, of operations that are made of others, what they move to.
    device = devices[0] if devices else _device_of(func, args, tensors)
    if func is torch.ops.aten.copy_.default:
        device = args[0].device
    args, kwargs = tree_map(_on_cpu, (args, kwargs))
    plain = func(*args, **kwargs)
    if func._schema.is_mutable and isinstance(plain, torch.Tensor):
        # The tensor that was changed in place, as whoever called it knows it.
        return next(tensor for tensor in tensors if _content(tensor) is plain)
    if not _is_placed(device):
        return plain
    return tree_map(lambda x: Placed(x, device) if isinstance(x, torch.Tensor) else x, plain)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.content if isinstance(value, Placed) else value


def _content(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.content if isinstance(tensor, Placed) else tensor


def _empty_strided(size: Any, stride: Any, *, device: torch.device, **options: Any) -> Placed:
    dtype = options.get("dtype")
    return Placed(torch.empty_strided(size, stride, dtype=dtype, device="cpu"), device)


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> Any:
    _content(target).copy_(_content(source))
    return target


# torch.tensor asks the device itself, past whatever watches the operations.
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


class _Placing(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def placed_devices() -> Iterator[None]:
    """Within it, tensors can be put on FIRST and SECOND."""
    # Each device would have a thread for its gradients, but for these no thread was started.
    with _Placing(), torch.autograd.set_multithreading_enabled(False):
        yield
