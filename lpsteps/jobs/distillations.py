"""Repairs that are distilled: their stored targets, and the settings of their steps."""

from __future__ import annotations

from typing import Any

from lpsteps import paths
from lpsteps.config import Config, DistilledRecovery
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.jobs.recoveries import distilled_recoveries
from lpsteps.jobs.shown_variants import Variant, variants
from lpsteps.jobs.text import training_text


def distilled(config: Config, recovery: str) -> DistilledRecovery:
    """Return a recovery that is distilled."""
    entry = config.definitions.recoveries[recovery]
    if not isinstance(entry, DistilledRecovery):
        raise TypeError(f"{recovery} is not distilled")
    return entry


def teacher_manifest(config: Config, plan: Variant, recovery: str) -> str | None:
    """Return the manifest of the stored targets that a distillation reads, None if it is fused.

    Which layers the targets can do without depends on where training starts, so each start has its
    own; distillations that store the same from one start share it.

    Args:
        config: The config.
        plan: A variant with the same plan.
        recovery: Entry of ``recoveries`` that is distilled.
    """
    entry = distilled(config, recovery)
    settings = config.distillation(entry.distillation)
    if settings.resolved_mode() == "fused":
        return None
    return paths.stored_targets(plan.plan_folder, entry.start, _store_name(settings))


def _store_name(settings: DistillationSettings) -> str:
    windows = "all" if settings.windows is None else settings.windows
    return f"k{settings.top_k}-w{windows}-{'hidden' if settings.store_hidden else 'tokens'}"


def teacher_stores(config: Config) -> dict[str, dict[str, Any]]:
    """Return the settings of each store of targets that some distillation reads, by its name."""
    stores: dict[str, dict[str, Any]] = {}
    for distillation in sorted(config.definitions.distillations):
        settings = config.distillation(distillation)
        if settings.resolved_mode() == "offline":
            stores[_store_name(settings)] = settings.model_dump(
                mode="json", include={"top_k", "windows", "store_hidden"}
            )
    return stores


def store_teacher_spec(config: Config, store: str) -> dict[str, Any]:
    """Return the settings of ``store_teacher``."""
    return {
        "settings": teacher_stores(config)[store],
        "fit": [source.windows for source in training_text(config).fit],
        "seed": config.profile.seed,
    }


def stored_targets(config: Config, model: str) -> str | None:
    """Return the manifest of a store of targets that the profile needs of a model, if any."""
    trained = distilled_recoveries(config)
    stores = {
        teacher_manifest(config, variant, variant.recovery)
        for variant in variants(config)
        if variant.model == model and variant.recovery in trained
    }
    return min(filter(None, stores), default=None)


def distill_spec(config: Config, recovery: str) -> dict[str, Any]:
    """Return the settings of ``distill``."""
    entry = distilled(config, recovery)
    text = training_text(config)
    return {
        "recovery": recovery,
        "start": entry.start,
        "distillation": entry.distillation,
        "settings": config.distillation(entry.distillation).model_dump(mode="json"),
        "fit": [source.windows for source in text.fit],
        "heldout": [source.windows for source in text.heldout],
        "seed": config.profile.seed,
    }
