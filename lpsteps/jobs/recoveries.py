"""Repairs by a method: what they read, and the settings of the steps that build them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pydantic import BaseModel

from lpsteps import methods
from lpsteps.config import Config, DistilledRecovery, MethodRecovery
from lpsteps.jobs.text import bos_setting
from lpsteps.recovery.base import Need


def _with_method(config: Config, recovery: str) -> MethodRecovery:
    """Return a recovery, or the one where its distillation starts."""
    entry = config.definitions.recoveries[recovery]
    return entry if isinstance(entry, MethodRecovery) else _with_method(config, entry.start)


def recovery_method(config: Config, recovery: str) -> tuple[ModuleType, BaseModel]:
    """Return the module of a recovery's method and its checked parameters."""
    entry = _with_method(config, recovery)
    method = methods.recovery_method(entry.method)
    return method, method.Params(**entry.params)


def recovery_unsuited(config: Config, model: str, recovery: str, n: int) -> str | None:
    """Return why a recovery cannot repair a cut of n layers of a model in this profile, or None."""
    entry = config.definitions.recoveries[recovery]
    if isinstance(entry, DistilledRecovery):
        lacking = config.lacking_text(entry.distillation)
        if lacking is not None:
            return lacking
    method, params = recovery_method(config, recovery)
    return methods.unsuited(method, params, n, config.definitions.models[model].model_type)


def method_recoveries(config: Config) -> list[str]:
    """Return the recoveries that ``build_patch`` makes, sorted."""
    return sorted(config.definitions.recoveries.keys() - distilled_recoveries(config))


def distilled_recoveries(config: Config) -> list[str]:
    """Return the recoveries that ``distill`` makes, sorted."""
    recoveries = config.definitions.recoveries
    return sorted(name for name in recoveries if isinstance(recoveries[name], DistilledRecovery))


def recovery_needs(config: Config, recovery: str) -> frozenset[Need]:
    """Return what a recovery's method reads."""
    return methods.recovery_needs(*recovery_method(config, recovery))


def measure_moments_spec(config: Config, calibration: str, kind: str) -> dict[str, Any]:
    """Return the settings of ``measure_moments``: the text is that of the calibration."""
    entry = config.definitions.calibrations[calibration]
    return {
        "kind": kind,
        "windows": entry.total_windows,
        "exclude_first": entry.exclude_first,
        "batch": 1,
    }


def recovery_modules(config: Config, recovery: str) -> list[str]:
    """Return the method modules that ``build_patch`` runs for a recovery."""
    return [f"lpsteps.recovery.{_with_method(config, recovery).method}"]


def build_patch_spec(config: Config, model: str, calibration: str, recovery: str) -> dict[str, Any]:
    """Return the settings of ``build_patch``.

    A repair that runs the model itself reads the same windows as the calibration.
    """
    entry = _with_method(config, recovery)
    spec: dict[str, Any] = {
        "recovery": recovery,
        "method": entry.method,
        "params": entry.params,
        "modules": recovery_modules(config, recovery),
    }
    if "model" in recovery_needs(config, recovery):
        spec["windows"] = config.definitions.calibrations[calibration].total_windows
        spec["exclude_first"] = config.definitions.calibrations[calibration].exclude_first
        spec["seed"] = config.profile.seed
        spec |= bos_setting(config, model)
    return spec
