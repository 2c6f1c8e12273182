"""Which variants can be exported, and the names under which a user asks for them."""

from __future__ import annotations

import difflib
from dataclasses import replace

from lpsteps import jobs, paths
from lpsteps.config import Config
from lpsteps.errors import LpstepsError, nearest

_SUGGESTIONS = 3


def short_name(config: Config, variant: jobs.Variant) -> str:
    """Return the shortest name of a variant.

    It is the variant's path below ``results/{model}`` without what the profile says anyway:
    ``llm-streamline/n5/linearpatch``, ``llm-pruner/n5`` or ``dense``. A variant on another
    calibration than the profile's keeps the whole path.
    """
    path = lineage(variant)
    if variant.n and variant.calibration == config.profile.calibration:
        return path.split("/", 3)[3]
    return path


def lineage(variant: jobs.Variant) -> str:
    """Return the path of a variant below ``results/{model}``."""
    return variant.folder.removeprefix(paths.lineage_folder(variant.model, ""))


def exportable_variants(config: Config, model: str) -> list[jobs.Variant]:
    """Return the variants of a model that can be exported, sorted.

    These are the dense model, every plan that the profile shows with every recovery that suits it,
    and the width prunings that the profile shows.
    """
    plans = [plan for plan in jobs.plan_folders(config) if plan.model == model]
    suited = {n: suited_recoveries(config, model, n) for n in {plan.n for plan in plans}}
    found = {jobs.Variant(model)}
    for plan in plans:
        found.update(replace(plan, recovery=recovery) for recovery in suited[plan.n])
    found.update(each for each in jobs.variants(config) if each.model == model and each.width)
    return sorted(found)


def suited_recoveries(config: Config, model: str, n: int) -> list[str]:
    """Return the recoveries that can repair a cut of n layers of a model in this profile."""
    return [
        recovery
        for recovery in config.definitions.recoveries
        if jobs.recovery_unsuited(config, model, recovery, n) is None
    ]


def named_variant(config: Config, model: str, name: str) -> jobs.Variant:
    """Find a variant by its short name or by its path below ``results/{model}``.

    Raises:
        LpstepsError: There is no such model or variant; the message has the nearest names.
    """
    if model not in config.definitions.models:
        raise LpstepsError(f"--model: {model}: {nearest(model, config.definitions.models)}")
    variants = exportable_variants(config, model)
    by_name = {short_name(config, variant): variant for variant in variants}
    by_name |= {lineage(variant): variant for variant in variants}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=_SUGGESTIONS, cutoff=0.0)
        raise LpstepsError(
            f"--variant: {name}: {config.source} shows no such variant of {model}; the nearest "
            f"names are {', '.join(close)}"
        )
    return by_name[name]
