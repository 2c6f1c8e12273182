"""Costs that are measured: their files, and the settings of their step."""

from __future__ import annotations

from typing import Any

from lpsteps import paths
from lpsteps.config import Config
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.jobs.text import training_length, training_text


def overhead_files(config: Config) -> list[str]:
    """Return the files of costs that the profile's tables show, sorted."""
    tables = config.profile.tables.items()
    shown = {model for name, row in tables if config.tables[name].overhead_rows for model in row}
    return [paths.overheads(model) for model in sorted(shown)]


def measure_overheads_spec(config: Config) -> dict[str, Any]:
    """Return the settings of ``measure_overheads``.

    The text whose targets are counted is that of the profile's distillations. Its tokens are null
    where there is none, or where the config asks for all windows of a corpus.
    """
    profile = config.profile
    tokens = None
    if profile.training_text is not None:
        text = training_text(config)
        windows = text.windows or text.available
        if windows is not None:
            tokens = windows * training_length(config)
    return {
        **profile.overheads.model_dump(mode="json"),
        "window_length": profile.window_length,
        "top_k": DistillationSettings().top_k,
        "tokens": tokens,
        "seed": profile.seed,
    }
