"""Checks of the calibration text that a profile gives to its methods."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel

from lpsteps import methods
from lpsteps.calibration_text import WantedText
from lpsteps.config.availability import unavailable_calibration
from lpsteps.config.definitions import Definitions, DistilledRecovery
from lpsteps.config.profile import Config
from lpsteps.errors import LpstepsError
from lpsteps.recovery.base import moments_kind

Section = Literal["selections", "width_prunings", "recoveries"]

_OF_MOMENTS = WantedText(windows=2)
"""One part to fit to, and one that is held out."""


def check_text_of_methods(config: Config) -> None:
    """Check that each method which a table or figure shows can work on the text that it gets.

    What the definitions lack, or has no text in this profile, is shown with a reason and not
    checked.

    Raises:
        LpstepsError: A calibration excludes whole windows, or tokens in front of a method that
            counts all of them; or it has less text than a method asks for.
    """
    for calibration, section, name in dict.fromkeys(_readers(config)):
        defined = name in getattr(config.definitions, section)
        if not defined or calibration not in config.definitions.calibrations:
            continue
        if unavailable_calibration(config, calibration) is None:
            _check_reader(config, calibration, section, name)


def _readers(config: Config) -> Iterator[tuple[str, Section, str]]:
    """Yield the calibration, the section and the name of every method that is shown."""
    own = config.profile.calibration
    for figure in config.figures.values():
        yield own, "selections", figure.selection
    for table in config.tables.values():
        for query in filter(None, table.queries()):
            calibration = query.calibration or own
            yield calibration, "selections", query.selection
            yield calibration, "width_prunings", query.selection
        for query in filter(None, table.variants()):
            recovery = config.definitions.recoveries.get(query.recovery)
            start = recovery.start if isinstance(recovery, DistilledRecovery) else query.recovery
            yield query.calibration or own, "recoveries", start


def _check_reader(config: Config, calibration: str, section: Section, name: str) -> None:
    text = config.definitions.calibrations[calibration]
    length = config.window_length(text.corpus)
    excluded = f"{config.definitions.place('calibrations', calibration)}.exclude_first"
    if text.exclude_first >= length:
        raise LpstepsError(f"{excluded}: {text.exclude_first}: must lie in 0 to {length - 1}")
    method, params, needs = _method(config.definitions, section, name)
    if text.exclude_first and getattr(method, "COUNTS_EVERY_TOKEN", False):
        raise LpstepsError(
            f"{excluded}: {text.exclude_first}: {section}.{name} counts every token that it runs "
            "the model on; set it to 0, or show methods that read statistics or moments"
        )
    wanted = [params.wanted_text] if hasattr(params, "wanted_text") else []
    wanted += [_OF_MOMENTS] if moments_kind(needs) else []
    for part in wanted:
        lacking = part.lacking(text.total_windows, length, f"calibration '{calibration}'")
        if lacking is not None:
            where = config.definitions.place(section, name)
            raise LpstepsError(f"{where}: {lacking}")


def _method(
    definitions: Definitions, section: Section, name: str
) -> tuple[ModuleType, BaseModel, frozenset[Any]]:
    """Return a method's module, its checked parameters and what it reads of earlier steps."""
    if section == "selections":
        selection = definitions.selections[name]
        metric = methods.selection_method(selection.metric)
        return metric, metric.Params(**selection.params), metric.NEEDS
    if section == "width_prunings":
        pruning = definitions.width_prunings[name]
        width = methods.width_method(pruning.method)
        return width, width.Params(**pruning.params), frozenset()
    recovery = definitions.recoveries[name]
    assert not isinstance(recovery, DistilledRecovery)
    method = methods.recovery_method(recovery.method)
    params = method.Params(**recovery.params)
    return method, params, methods.recovery_needs(method, params)
