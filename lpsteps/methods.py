"""Find a method's module by its name: the only place in the package that imports dynamically.

A registry that imports every method would make each result depend on the code of all of them. Here
a rule names the one module that it uses, so an edit of a method reruns that method's results alone.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lpsteps.errors import LpstepsError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lpsteps.recovery.base import Need

_PACKAGE = Path(__file__).parent
_NOT_METHODS = {"__init__", "base", "ranking"}


@functools.cache
def method_names(kind: str) -> tuple[str, ...]:
    """Return the names of all methods of a kind, which is a folder of the package, sorted."""
    files = (_PACKAGE / kind).glob("[!.]*.py")
    return tuple(sorted(file.stem for file in files if file.stem not in _NOT_METHODS))


def method_module(kind: str, name: str) -> ModuleType:
    """Import the module of one method.

    Args:
        kind: ``selection``, ``recovery`` or ``width``.
        name: The file's name without ``.py``.

    Raises:
        LpstepsError: There is no such method; the message has the nearest name.
    """
    names = method_names(kind)
    if name not in names:
        raise LpstepsError(f"{kind} method '{name}' does not exist: {nearest(name, names)}")
    return importlib.import_module(f"lpsteps.{kind}.{name}")


def selection_method(name: str) -> ModuleType:
    """Import ``lpsteps.selection.<name>``; see :func:`method_module`."""
    return method_module("selection", name)


def recovery_method(name: str) -> ModuleType:
    """Import ``lpsteps.recovery.<name>``; see :func:`method_module`."""
    return method_module("recovery", name)


def width_method(name: str) -> ModuleType:
    """Import ``lpsteps.width.<name>``; see :func:`method_module`."""
    return method_module("width", name)


def recovery_needs(method: ModuleType, params: BaseModel) -> frozenset[Need]:
    """Return what a recovery reads, which may depend on its parameters.

    Args:
        method: Module of the method.
        params: Its checked ``Params``.
    """
    needs: frozenset[Need] = method.needs(params) if hasattr(method, "needs") else method.NEEDS
    return needs


def unsuited(method: ModuleType, params: BaseModel, n: int, family: str | None) -> str | None:
    """Return why a recovery cannot repair any cut of ``n`` layers, or None when it can.

    A module says so in a function ``unsuited(params, n, family)`` of its own; one without it takes
    every cut of every model.

    Args:
        method: Module of the method.
        params: Its checked ``Params``.
        n: Number of removed layers.
        family: ``model_type`` of the model, None where the config does not state it.
    """
    if not hasattr(method, "unsuited"):
        return None
    reason: str | None = method.unsuited(params, n, family)
    return reason


def working_bytes(method: ModuleType, hidden_size: int, intermediate_size: int) -> int:
    """Return the memory that a recovery takes beside the model's own, as its module states it.

    Args:
        method: Module of the method.
        hidden_size: Channels of the residual stream.
        intermediate_size: Numbers that an MLP's output projection reads.
    """
    if not hasattr(method, "working_bytes"):
        return 0
    needed: int = method.working_bytes(hidden_size, intermediate_size)
    return needed


def selection_unsuited(
    metric: ModuleType, params: Mapping[str, Any], n: int, n_layers: int
) -> str | None:
    """Return why a selection metric cannot choose ``n`` layers to remove, or None when it can.

    A module says so in a function ``unsuited(params, n, n_layers)`` of its own; one without it is
    limited by its exemptions alone, if it has such parameters.

    Args:
        metric: Module of the metric.
        params: Its parameters in the config, which have been checked.
        n: Number of layers to remove.
        n_layers: Layers of the dense model.
    """
    checked = metric.Params(**params)
    reason: str | None = None
    if hasattr(metric, "unsuited"):
        reason = metric.unsuited(checked, n, n_layers)
    elif hasattr(checked, "unsuited"):
        reason = checked.unsuited(n, n_layers)
    return reason


def gradient_tokens(metric: ModuleType, params: Mapping[str, Any]) -> int:
    """Return the tokens of one backward pass of a selection metric, as its module states them.

    Args:
        metric: Module of the metric.
        params: Its parameters in the config, which have been checked.
    """
    if not hasattr(metric, "gradient_tokens"):
        return 0
    tokens: int = metric.gradient_tokens(metric.Params(**params))
    return tokens
