"""The settings of the steps that choose layers."""

from __future__ import annotations

from typing import Any

from lpsteps import methods
from lpsteps.config import Config
from lpsteps.errors import LpstepsError
from lpsteps.jobs.shown_variants import selection_counts


def selection_needs(config: Config, selection: str) -> frozenset[str]:
    """Return what a selection reads: a subset of ``statistics`` and ``model``."""
    needs: frozenset[str] = methods.method_module(
        "selection", config.definitions.selections[selection].metric
    ).NEEDS
    return needs


def selection_modules(config: Config, selection: str) -> list[str]:
    """Return the method modules that ``rank_layers`` runs for a selection."""
    return [f"lpsteps.selection.{config.definitions.selections[selection].metric}"]


def rank_layers_spec(
    config: Config, model: str, calibration: str, selection: str
) -> dict[str, Any]:
    """Return the settings of ``rank_layers``.

    A ranking from statistics is cheap, so it covers every number of layers and another pruning
    level leaves it alone; so does a ranking of single layers, which serves every number at once.
    Others that run the model cover what some table asks for; if layers are removed one after the
    other, the largest number covers the smaller ones. A metric that runs the model reads the same
    windows as the calibration.
    """
    entry = config.definitions.selections[selection]
    n_layers = config.definitions.models[model].n_layers
    counts = list(range(1, n_layers))
    kind = methods.selection_method(entry.metric).KIND
    if "model" in selection_needs(config, selection) and kind != "single":
        wanted = selection_counts(config, model, calibration, selection)
        counts = wanted[-1:] if kind == "sequence" else wanted
    spec: dict[str, Any] = {
        "selection": selection,
        "metric": entry.metric,
        "params": entry.params,
        "counts": counts,
        "n_layers": n_layers,
        "seed": config.profile.seed,
        "modules": selection_modules(config, selection),
    }
    if "model" in selection_needs(config, selection):
        spec["windows"] = config.definitions.calibrations[calibration].total_windows
        spec["exclude_first"] = config.definitions.calibrations[calibration].exclude_first
    return spec


def choose_layers_spec(
    config: Config, model: str, calibration: str, selection: str, n: int
) -> dict[str, Any]:
    """Return the settings of ``choose_layers``.

    Raises:
        LpstepsError: The selection's ranking does not cover ``n``, because no table or figure of
            the profile shows that number.
    """
    kind = methods.selection_method(config.definitions.selections[selection].metric).KIND
    if "model" in selection_needs(config, selection) and kind != "single":
        shown = selection_counts(config, model, calibration, selection)
        if n not in shown and (kind != "sequence" or not shown or n > shown[-1]):
            raise LpstepsError(
                f"{selection}: n{n}: no table or figure of the profile shows {n} layers of {model} "
                f"removed in this way on {calibration}, and its ranking covers only the numbers "
                "that are shown; add the number below `tables`, and a row if there is none"
            )
    return {
        "model": model,
        "selection": selection,
        "n": n,
        "n_layers": config.definitions.models[model].n_layers,
    }
