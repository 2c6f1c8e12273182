"""Numbers of layers that a selection can remove from a model."""

from __future__ import annotations

from collections.abc import Iterable

from lpsteps import methods
from lpsteps.config import Config


def selection_unsuited(config: Config, model: str, selection: str, n: int) -> str | None:
    """Return why a selection cannot choose n layers of a model to remove, or None."""
    entry = config.definitions.selections[selection]
    metric = methods.selection_method(entry.metric)
    n_layers = config.definitions.models[model].n_layers
    return methods.selection_unsuited(metric, entry.params, n, n_layers)


def reachable(config: Config, model: str, selection: str, counts: Iterable[int]) -> list[int]:
    """Return those numbers of layers that a selection can remove from a model, in their order."""
    return [n for n in counts if selection_unsuited(config, model, selection, n) is None]
