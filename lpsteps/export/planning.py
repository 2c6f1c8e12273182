"""From the config to what the rule `export_model` reads: its settings, its inputs, its target."""

from __future__ import annotations

from typing import Any

from lpsteps import jobs, methods, paths
from lpsteps.config import ArchiveSource, Config, DistilledRecovery, HubSource
from lpsteps.export.variant_names import lineage

_CODE_FOLDER = "lpsteps/export"


def checkpoint_manifest(variant: jobs.Variant) -> str:
    """Return the manifest of the exported folder, which is what to ask Snakemake for."""
    return paths.checkpoint(variant.folder)


def modeling_file(variant: jobs.Variant) -> str | None:
    """Return the source of the model class that a variant may need; None for the dense model."""
    if not variant.n:
        return None
    return f"{_CODE_FOLDER}/modeling_{'width' if variant.width else 'layer'}_pruned.py"


def score_files(config: Config, variant: jobs.Variant) -> dict[str, str]:
    """Return ``{benchmark: file}`` of the scores that the profile's tables show of a variant.

    A variant that no table shows is exported without scores: an export never starts a benchmark
    that the report would not run.
    """
    shown = jobs.variants(config).get(variant, [])
    return {name: paths.score(variant.folder, name) for name in shown}


def dense_score_files(config: Config, variant: jobs.Variant) -> dict[str, str]:
    """Return the scores of the dense model to compare with; none for the dense model itself."""
    if not variant.n:
        return {}
    dense = score_files(config, jobs.Variant(variant.model))
    return {name: path for name, path in dense.items() if name in score_files(config, variant)}


def export_model_spec(config: Config, variant: jobs.Variant) -> dict[str, Any]:
    """Return the settings of ``export_model``."""
    spec: dict[str, Any] = {
        "model": variant.model,
        "variant": lineage(variant),
        "base": _base(config, variant.model),
        "benchmarks": {
            name: config.benchmarks[name].title for name in score_files(config, variant)
        },
        "seed": config.profile.seed,
    }
    if variant.n:
        spec["calibration"] = variant.calibration
    if variant.width:
        entry = config.definitions.width_prunings[variant.width]
        paper = methods.width_method(entry.method).PAPER
        spec["width"] = {"name": variant.width, **entry.model_dump(mode="json"), "paper": paper}
    elif variant.n:
        selection = config.definitions.selections[variant.selection]
        spec["selection"] = {
            "name": variant.selection,
            "title": selection.title,
            "method": selection.metric,
            "params": selection.params,
            "paper": methods.selection_method(selection.metric).PAPER,
        }
        spec["recovery"] = _recovery(config, variant.recovery)
    return spec


def _base(config: Config, model: str) -> dict[str, Any]:
    entry = config.definitions.models[model]
    licence = entry.licence
    if isinstance(entry.source, ArchiveSource) and not licence:
        licence = config.definitions.archives[entry.source.archive].licence
    return {
        "title": entry.title,
        **jobs.model_origin(config, model),
        "repo": entry.source.repo if isinstance(entry.source, HubSource) else None,
        "folder": f"resources/models/{model}",
        "licence": licence,
    }


def _recovery(config: Config, recovery: str) -> dict[str, Any]:
    entry = config.definitions.recoveries[recovery]
    method, params = jobs.recovery_method(config, recovery)
    facts = {
        "name": recovery,
        "title": entry.title,
        "method": method.__name__.rpartition(".")[2],
        "params": params.model_dump(mode="json"),
        "paper": method.PAPER,
    }
    if isinstance(entry, DistilledRecovery):
        facts["start"] = entry.start
        facts["training"] = config.distillation(entry.distillation).model_dump(mode="json")
    return facts
