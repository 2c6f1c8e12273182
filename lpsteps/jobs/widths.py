"""Width prunings: for which models they are, and the settings of their step."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pydantic import BaseModel

from lpsteps import methods
from lpsteps.config import Config
from lpsteps.models.families import is_tested


def _width_method(config: Config, width: str) -> tuple[ModuleType, BaseModel]:
    """Return the module of a width pruning's method and its checked parameters."""
    entry = config.definitions.width_prunings[width]
    method = methods.width_method(entry.method)
    return method, method.Params(**entry.params)


def width_unsuited(config: Config, model: str, width: str, n: int) -> str | None:
    """Return why a width pruning cannot take the parameters of n layers from a model, or None."""
    entry = config.definitions.models[model]
    # A family that transformers has runs that code, whatever else its folder brings.
    if entry.trust_remote_code and not is_tested(entry.model_type or ""):
        return (
            "runs code of its own, whose heads and channels are not known; name a copy in a layout "
            "that transformers has to prune its width"
        )
    method, params = _width_method(config, width)
    reason: str | None = method.unsuited(params, n, entry.n_layers)
    return reason


def width_modules(config: Config, width: str) -> list[str]:
    """Return the method modules that ``prune_width`` runs for a width pruning."""
    return [f"lpsteps.width.{config.definitions.width_prunings[width].method}"]


def prune_width_spec(config: Config, calibration: str, width: str, n: int) -> dict[str, Any]:
    """Return the settings of ``prune_width``; it reads the same windows as the calibration."""
    entry = config.definitions.width_prunings[width]
    text = config.definitions.calibrations[calibration]
    return {
        "width": width,
        "method": entry.method,
        "params": entry.params,
        "n": n,
        "windows": text.total_windows,
        "exclude_first": text.exclude_first,
        "modules": width_modules(config, width),
    }
