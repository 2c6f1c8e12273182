"""What the tables and figures are built from, and the settings of their step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from lpsteps import methods, paths
from lpsteps.calibration_text import heldout_windows
from lpsteps.config import (
    Config,
    DistilledRecovery,
    MethodRecovery,
    unavailable,
    unavailable_calibration,
)
from lpsteps.jobs.overheads import overhead_files
from lpsteps.jobs.recoveries import distilled_recoveries, recovery_method, recovery_unsuited
from lpsteps.jobs.selection_levels import selection_unsuited
from lpsteps.jobs.shown_variants import (
    figure_plans,
    models,
    models_in_order,
    plan_folders,
    variants,
)
from lpsteps.jobs.sources import model_origin, shape
from lpsteps.jobs.text import (
    calibration_length,
    is_printed_calibration,
    is_printed_training_text,
    training_length,
    training_text,
)
from lpsteps.jobs.widths import width_unsuited
from lpsteps.report.definitions import NO_RECOVERY
from lpsteps.training import TrainingParams


def figure_inputs(config: Config) -> dict[str, list[str]]:
    """Return the files that the profile's figures are drawn from beside the plans, by kind."""
    calibration = config.profile.calibration
    kinds = {name: definition.kind for name, definition in config.figures.items()}
    measured = {
        model
        for name, kind in kinds.items()
        if kind != "token_scales"
        for model in config.profile.figures[name]
    }
    plans = {
        plan
        for name, kind in kinds.items()
        if kind == "token_scales"
        for plan in figure_plans(config, name)
    }
    return {
        "statistics": [paths.statistics(model, calibration) for model in sorted(measured)],
        "token_scales": [paths.token_scales(plan.plan_folder) for plan in sorted(plans)],
    }


def table_inputs(config: Config) -> dict[str, list[str]]:
    """Return all results that the profile's tables and figures are built from, by their kind."""
    needed = variants(config)
    trained = distilled_recoveries(config)
    return {
        "scores": [
            paths.score(variant.folder, name) for variant in needed for name in needed[variant]
        ],
        "plans": [paths.plan(plan.plan_folder) for plan in plan_folders(config)],
        "patches": [paths.patch(variant.folder) for variant in needed if variant.recovery],
        "widths": [paths.width(variant.folder) for variant in needed if variant.width],
        "training": [
            paths.training_curve(variant.folder)
            for variant in needed
            if variant.recovery in trained
        ],
        "overheads": overhead_files(config),
        **figure_inputs(config),
    }


def published_files(config: Config) -> list[str]:
    """Return the files with the paper's printed values for those tables that are the paper's."""
    files = [f"reports/published/{table}.csv" for table in sorted(config.profile.tables)]
    return [file for file in files if Path(file).is_file()]


def build_tables_spec(config: Config) -> dict[str, Any]:
    """Return the settings of ``build_tables``."""
    definitions, profile = config.definitions, config.profile
    reasons = {
        name: unavailable(config, benchmark) for name, benchmark in config.benchmarks.items()
    }
    return {
        "profile": ", ".join(config.files),
        "overrides": config.overrides,
        "calibration": profile.calibration,
        "printed_calibration": is_printed_calibration(config, profile.calibration),
        "printed_training_text": is_printed_training_text(config),
        "tables": {
            table: {model: list(counts) for model, counts in row.items()}
            for table, row in profile.tables.items()
        },
        "figures": {
            figure: {model: list(counts) for model, counts in row.items()}
            for figure, row in profile.figures.items()
        },
        "order": models_in_order(config),
        "models": {
            model: {
                "title": definitions.models[model].title,
                **model_origin(config, model),
                **shape(config, model),
            }
            for model in models(config)
        },
        "variants": {
            variant.folder: {
                "model": variant.model,
                "n": variant.n,
                "calibration": variant.calibration,
                # Rows name a width pruning in the place of a selection.
                "selection": variant.selection or variant.width,
                "recovery": NO_RECOVERY if variant.width else variant.recovery,
            }
            for variant in variants(config)
        },
        "plans": {
            plan.plan_folder: {
                "model": plan.model,
                "n": plan.n,
                "calibration": plan.calibration,
                "selection": plan.selection,
            }
            for plan in plan_folders(config)
        },
        "benchmarks": {
            name: config.benchmarks[name].model_dump(mode="json")
            for suite in profile.suites.values()
            for name in suite.benchmarks
        },
        "unavailable": {name: reason for name, reason in reasons.items() if reason is not None},
        "selections": {name: entry.title for name, entry in definitions.selections.items()},
        "unsuited_selections": {
            name: _out_of_reach(config, name) for name in definitions.selections
        },
        "widths": {name: width_facts(config, name) for name in definitions.width_prunings},
        "recoveries": {
            name: recovery_facts(config, profile.calibration, name)
            for name, entry in definitions.recoveries.items()
            # Without a text, no table of the profile shows what is distilled.
            if profile.training_text is not None or isinstance(entry, MethodRecovery)
        },
        "own_calibrations": _own_calibrations(config),
        "window_lengths": {
            name: calibration_length(config, name) for name in sorted(_named_calibrations(config))
        },
        "unavailable_calibrations": _unavailable_calibrations(config),
    }


def recovery_facts(config: Config, calibration: str, recovery: str) -> dict[str, Any]:
    """Return what the tables say of a recovery on a calibration.

    Its title, the tokens of text that it reads, how long it is trained on how many of them, what a
    distillation does, and for which models and numbers of layers it is unsuited, with the
    reasons. Tokens are null where the config asks for all windows of a corpus, which are counted
    when they are cut.
    """
    entry = config.definitions.recoveries[recovery]
    method, params = recovery_method(config, recovery)
    distillation = None
    if isinstance(entry, DistilledRecovery):
        distillation = _distillation_facts(config, entry)
        tokens, training = _text_of_distillation(distillation)
    else:
        tokens, training = _text_of_method(config, calibration, method, params)
    return {
        "title": entry.title,
        "calibration_tokens": tokens,
        "training": training,
        "distillation": distillation,
        "unsuited": _unsuited_levels(
            config, lambda model, n: recovery_unsuited(config, model, recovery, n)
        ),
    }


def _text_of_method(
    config: Config, calibration: str, method: ModuleType, params: BaseModel
) -> tuple[int | None, dict[str, Any] | None]:
    """Return the tokens that a method reads, and how long it is trained on how many of them."""
    entry = config.definitions.calibrations[calibration]
    window = calibration_length(config, calibration)
    if not isinstance(params, TrainingParams):
        needs = methods.recovery_needs(method, params)
        return (entry.total_windows * (window - entry.exclude_first) if needs else 0), None
    if params.epochs == 0:
        return 0, None
    windows = params.windows or entry.total_windows
    length = params.length or window
    per_window = window // length * length
    # With one window alone the training itself will say that it needs more.
    fitted = windows - heldout_windows(windows) if windows > 1 else 0
    return windows * per_window, {"epochs": params.epochs, "tokens": fitted * per_window}


def _text_of_distillation(facts: dict[str, Any]) -> tuple[int | None, dict[str, Any] | None]:
    tokens = None if facts["windows"] is None else facts["windows"] * facts["length"]
    return tokens, {"epochs": facts["epochs"], "tokens": tokens}


def _distillation_facts(config: Config, entry: DistilledRecovery) -> dict[str, Any]:
    settings = config.distillation(entry.distillation)
    windows = settings.windows
    if windows is None:
        windows = training_text(config).available
    return {
        **settings.model_dump(
            mode="json", include={"objective", "top_k", "tail", "parametrisation", "epochs"}
        ),
        "windows": windows,
        "length": training_length(config),
        "mode": settings.resolved_mode(),
        "start": entry.start,
    }


def width_facts(config: Config, width: str) -> dict[str, Any]:
    """Return what the tables say of a width pruning: title, and levels without it, with reasons."""
    return {
        "title": config.definitions.width_prunings[width].title,
        "unsuited": _unsuited_levels(
            config, lambda model, n: width_unsuited(config, model, width, n)
        ),
    }


def _out_of_reach(config: Config, selection: str) -> dict[str, dict[str, str]]:
    """Return the levels that a selection cannot reach, with reasons, by model and level."""
    return _unsuited_levels(
        config, lambda model, n: selection_unsuited(config, model, selection, n)
    )


def _unsuited_levels(
    config: Config, reason: Callable[[str, int], str | None]
) -> dict[str, dict[str, str]]:
    """Return the reasons against the profile's models and levels, by model and level."""
    levels: dict[str, set[int]] = {}
    for row in (*config.profile.tables.values(), *config.profile.figures.values()):
        for model, counts in row.items():
            levels.setdefault(model, set()).update(counts)
    found: dict[str, dict[str, str]] = {}
    for model in sorted(levels):
        reasons = {str(n): reason(model, n) for n in sorted(levels[model])}
        found[model] = {n: why for n, why in reasons.items() if why is not None}
    return found


def _named_calibrations(config: Config) -> set[str]:
    """Return the calibrations that rows of the profile's tables name and the config defines."""
    queries = (query for table in config.tables.values() for query in table.queries() if query)
    named = {query.calibration for query in queries if query.calibration is not None}
    return named & config.definitions.calibrations.keys()


def _unavailable_calibrations(config: Config) -> dict[str, str]:
    reasons = {name: unavailable_calibration(config, name) for name in _named_calibrations(config)}
    return {name: reason for name, reason in sorted(reasons.items()) if reason is not None}


def _own_calibrations(config: Config) -> dict[str, dict[str, Any]]:
    """Return the facts of the recoveries that rows show on a calibration of their own."""
    queries = {
        query
        for table in config.tables.values()
        for query in table.queries()
        if query is not None and query.calibration in _named_calibrations(config)
    }
    found: dict[str, dict[str, Any]] = {}
    for query in sorted(queries):
        assert query.calibration is not None
        recoveries = found.setdefault(query.calibration, {})
        if query.recovery in config.definitions.recoveries:
            recoveries[query.recovery] = recovery_facts(config, query.calibration, query.recovery)
    return found
