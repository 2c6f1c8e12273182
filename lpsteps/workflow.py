"""From a checked config to what each job reads: variants, paths, settings and target files.

Pure functions that the rules call. A job's ``spec`` holds everything from the config that its step
reads and nothing else, so that Snakemake reruns a step exactly when one of its settings changed.
All of it is plain dicts, lists, strings and numbers in a stable order, because Snakemake compares
the printed form.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from lpsteps import methods
from lpsteps.calibration_text import heldout_windows
from lpsteps.config import (
    ArchiveSource,
    Config,
    DistilledRecovery,
    HubSource,
    LocalSource,
    MethodRecovery,
    TextSource,
    TrainingText,
    dataset_origin,
    model_source,
    unavailable,
    unavailable_calibration,
)
from lpsteps.data.specs import MODEL_SUFFIXES
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError, nearest
from lpsteps.evaluation.benchmark import HarnessBenchmark, PerplexityBenchmark
from lpsteps.recovery.base import Need, moments_kind
from lpsteps.repair_text import RepairParams
from lpsteps.report.definitions import NO_RECOVERY, Query
from lpsteps.training import TrainingParams

DENSE = "dense"


@dataclass(frozen=True, order=True)
class Variant:
    """A model with some layers removed and the cut repaired, one of less width, or the dense one.

    Attributes:
        model: Entry of ``models``.
        calibration: Entry of ``calibrations``; empty for the dense model, like the next two.
        selection: Entry of ``selections``; empty where the width is pruned, like ``recovery``.
        n: Number of removed layers, or of layers with as many parameters; 0 for the dense model.
        recovery: Entry of ``recoveries``.
        width: Entry of ``width_prunings``; empty where layers are removed.
    """

    model: str
    calibration: str = ""
    selection: str = ""
    n: int = 0
    recovery: str = ""
    width: str = ""

    @property
    def plan_folder(self) -> str:
        """Folder of the plan, which variants with the same layers share."""
        calibration = f"results/{self.model}/calibration/{self.calibration}"
        return f"{calibration}/selection/{self.selection}/n{self.n}"

    @property
    def folder(self) -> str:
        """Folder of everything that belongs to this variant; it reads as the variant's lineage."""
        if not self.n:
            return f"results/{self.model}/{DENSE}"
        if self.width:
            calibration = f"results/{self.model}/calibration/{self.calibration}"
            return f"{calibration}/width/{self.width}/n{self.n}"
        return f"{self.plan_folder}/{self.recovery}"

    @classmethod
    def from_lineage(cls, model: str, lineage: str) -> Variant:
        """Parse the part of :attr:`folder` that follows ``results/{model}/``."""
        if lineage == DENSE:
            return cls(model)
        _, calibration, kind, name, count, *recovery = lineage.split("/")
        n = int(count.removeprefix("n"))
        if kind == "width":
            return cls(model, calibration, n=n, width=name)
        return cls(model, calibration, name, n, *recovery)


def run_programs_of(project: str) -> None:
    """Make jobs run `python -m lpsteps...` with this interpreter and the code of one checkout.

    Args:
        project: The checkout. Its environment need not be activated, nor the package installed.
    """
    search = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": project}
    for name, first in search.items():
        rest = os.environ.get(name)
        os.environ[name] = os.pathsep.join([first, rest]) if rest else first


def models(config: Config) -> list[str]:
    """Return the models that any table or figure of the profile shows, sorted."""
    return sorted(_models_in_order(config))


def _models_in_order(config: Config) -> list[str]:
    """Return the same models in the order in which the profile names them first."""
    shown = (*config.profile.tables.values(), *config.profile.figures.values())
    return list(dict.fromkeys(model for row in shown for model in row))


def variants(config: Config) -> dict[Variant, list[str]]:
    """Return all variants that the profile's tables show, with the benchmarks shown of each.

    Table rows whose selection, recovery or calibration the definitions lack are left out here; the
    table shows them as missing, with the reason that the table's definition states. So are rows on
    a calibration whose text cannot be had, levels that a recovery is unsuited for, and columns of
    benchmarks that no suite of the profile scores.

    Returns:
        Sorted by variant; the benchmarks are sorted, too.
    """
    scored = {name for suite in config.profile.suites.values() for name in suite.benchmarks}
    found: dict[Variant, set[str]] = {}
    for table, counts_by_model in config.profile.tables.items():
        shown = scored.intersection(config.tables[table].benchmarks())
        for model, counts in counts_by_model.items():
            for query in config.tables[table].variants():
                for variant in _variants_of(config, model, query, counts):
                    found.setdefault(variant, set()).update(shown)
    return {variant: sorted(found[variant]) for variant in sorted(found)}


def _variants_of(
    config: Config, model: str, query: Query | None, counts: Sequence[int]
) -> Iterator[Variant]:
    """Yield the variants of one table row: the dense model, or one for each suitable level."""
    if query is None:
        yield Variant(model)
        return
    calibration = query.calibration or config.profile.calibration
    defined = config.definitions
    if not _has_calibration(config, calibration):
        return
    if query.selection in defined.width_prunings:
        for n in counts:
            if width_unsuited(config, model, query.selection, n) is None:
                yield Variant(model, calibration, n=n, width=query.selection)
    if query.selection in defined.selections and query.recovery in defined.recoveries:
        for n in counts:
            if recovery_unsuited(config, query.recovery, n) is None:
                yield Variant(model, calibration, query.selection, n, query.recovery)


def _has_calibration(config: Config, calibration: str) -> bool:
    """Return whether a calibration is defined and its text can be had in this profile."""
    known = calibration in config.definitions.calibrations
    return known and unavailable_calibration(config, calibration) is None


def _with_method(config: Config, recovery: str) -> MethodRecovery:
    """Return a recovery, or the one where its distillation starts."""
    entry = config.definitions.recoveries[recovery]
    return entry if isinstance(entry, MethodRecovery) else _with_method(config, entry.start)


def recovery_method(config: Config, recovery: str) -> tuple[ModuleType, BaseModel]:
    """Return the module of a recovery's method and its checked parameters."""
    entry = _with_method(config, recovery)
    method = methods.recovery_method(entry.method)
    return method, method.Params(**entry.params)


def recovery_unsuited(config: Config, recovery: str, n: int) -> str | None:
    """Return why a recovery cannot repair a cut of n layers in this profile, or None."""
    entry = config.definitions.recoveries[recovery]
    if isinstance(entry, DistilledRecovery):
        lacking = config.lacking_text(entry.distillation)
        if lacking is not None:
            return lacking
    method, _ = recovery_method(config, recovery)
    return methods.unsuited(method, n)


def selection_counts(config: Config, model: str, calibration: str, selection: str) -> list[int]:
    """Return the numbers of layers that some table or figure removes by a selection, sorted."""
    wanted = (model, calibration, selection)
    plans = plan_folders(config)
    return [p.n for p in plans if (p.model, p.calibration, p.selection) == wanted]


def plan_folders(config: Config) -> list[Variant]:
    """Return one variant without recovery for each plan that a table or figure shows, sorted."""
    defined = config.definitions
    found = {plan for figure in config.figures for plan in figure_plans(config, figure)}
    for table, counts_by_model in config.profile.tables.items():
        for query in config.tables[table].queries():
            if query is None or query.selection not in defined.selections:
                continue
            calibration = query.calibration or config.profile.calibration
            if _has_calibration(config, calibration):
                found.update(
                    Variant(model, calibration, query.selection, n)
                    for model, counts in counts_by_model.items()
                    for n in counts
                )
    return sorted(found)


def figure_plans(config: Config, figure: str) -> list[Variant]:
    """Return one variant without recovery for each plan that a figure shows, in its order."""
    selection = config.figures[figure].selection
    return [
        Variant(model, config.profile.calibration, selection, n)
        for model, counts in config.profile.figures[figure].items()
        for n in counts
    ]


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
        "statistics": [
            f"results/{model}/calibration/{calibration}/stats.parquet" for model in sorted(measured)
        ],
        "token_scales": [f"{plan.plan_folder}/token_scales.parquet" for plan in sorted(plans)],
    }


def score_path(variant: Variant, benchmark: str) -> str:
    """Return the path of a score."""
    return f"{variant.folder}/scores/{benchmark}.json"


def table_inputs(config: Config) -> dict[str, list[str]]:
    """Return all results that the profile's tables and figures are built from, by their kind."""
    needed = variants(config)
    trained = distilled_recoveries(config)
    return {
        "scores": [score_path(variant, name) for variant in needed for name in needed[variant]],
        "plans": [f"{plan.plan_folder}/plan.json" for plan in plan_folders(config)],
        "patches": [
            f"{variant.folder}/patch.manifest.json" for variant in needed if variant.recovery
        ],
        "widths": [f"{variant.folder}/width.manifest.json" for variant in needed if variant.width],
        "training": [
            f"{variant.folder}/training.parquet"
            for variant in needed
            if variant.recovery in trained
        ],
        "overheads": overhead_files(config),
        **figure_inputs(config),
    }


def overhead_files(config: Config) -> list[str]:
    """Return the files of costs that the profile's tables show, sorted."""
    tables = config.profile.tables.items()
    shown = {model for name, row in tables if config.tables[name].overhead_rows for model in row}
    return [f"results/{model}/overheads.json" for model in sorted(shown)]


def published_files(config: Config) -> list[str]:
    """Return the files with the paper's printed values for those tables that are the paper's."""
    paths = [f"reports/published/{table}.csv" for table in sorted(config.profile.tables)]
    return [path for path in paths if Path(path).is_file()]


def memory_mb(config: Config, model: str) -> int:
    """Return the memory for a job that runs a model: float32 weights plus working space."""
    return 2500 + config.definitions.models[model].parameters * 4 // 10**6


def moments_mb(config: Config, model: str, n: int, kind: str) -> int:
    """Return the memory for a plan's moments while they are measured or read.

    Args:
        config: The config.
        model: Entry of ``models``.
        n: Number of removed layers, each of which may be a gap.
        kind: Kind of the moments.
    """
    matrices = n * (5 if kind == "branch" else 2)
    hidden_size = config.definitions.models[model].hidden_size
    # Sums of the fitted and of the held-out text, and the file's contents beside both of them.
    return 4 * matrices * 8 * hidden_size**2 // 10**6


def build_patch_mb(config: Config, model: str, n: int, recovery: str) -> int:
    """Return the memory for a patch: of the moments that it reads, and of the model twice.

    A repair that runs the model trains a part of it or holds a repaired copy.
    """
    needs = recovery_needs(config, recovery)
    megabytes = 2 * memory_mb(config, model) if "model" in needs else 1000
    kind = moments_kind(needs)
    return megabytes if kind is None else megabytes + moments_mb(config, model, n, kind)


def distill_mb(config: Config, model: str, recovery: str) -> int:
    """Return the memory for a distillation: of the model twice, and of what the gradient needs.

    These are the activations of one pass through all layers, each about as large as 16 times its
    input; how many layers stand behind the cut is not known before the plan.
    """
    entry = config.definitions.models[model]
    settings = config.distillation(distilled(config, recovery).distillation)
    tokens = (settings.micro_batch or settings.batch) * training_length(config)
    activations = tokens * entry.n_layers * entry.hidden_size * 16 * 4 // 10**6
    return 2 * memory_mb(config, model) + activations


def rank_layers_mb(config: Config, model: str, selection: str) -> int:
    """Return the memory for a ranking: of statistics, or of a model and as much for gradients.

    A metric that repairs its candidates also sums up two float64 matrices for every layer.
    """
    if "model" not in selection_needs(config, selection):
        return 1000
    entry = config.definitions.models[model]
    megabytes = memory_mb(config, model) + entry.parameters * 4 // 10**6
    metric = methods.selection_method(config.definitions.selections[selection].metric)
    if issubclass(metric.Params, RepairParams):
        megabytes += 2 * entry.n_layers * entry.hidden_size**2 * 8 // 10**6
    return megabytes


def corpora_manifest(config: Config, corpus: str) -> str:
    """Return the manifest of the dataset that a corpus is cut from."""
    return f"resources/data/{config.definitions.corpora[corpus].dataset}/manifest.json"


def archive_of_model(config: Config, model: str) -> str | None:
    """Return the archive that holds a model, or None when it comes from elsewhere."""
    source = config.definitions.models[model].source
    return source.archive if isinstance(source, ArchiveSource) else None


def data_splits(config: Config, dataset: str) -> Iterator[tuple[str, str]]:
    """Yield (split, origin) for every split of a dataset that can be had in this profile.

    Splits that only the hub has are known from the corpora and benchmarks that read them.
    """
    entry = config.definitions.datasets[dataset]
    files = entry.hub.files if entry.hub is not None else None
    read = {c.split for c in config.definitions.corpora.values() if c.dataset == dataset}
    for benchmark in config.benchmarks.values():
        if isinstance(benchmark, HarnessBenchmark) and benchmark.dataset == dataset:
            read.update(filter(None, (benchmark.split, benchmark.fewshot_split)))
    for split in sorted({*entry.splits, *entry.local, *(files or {}), *read}):
        origin = dataset_origin(config, dataset, split)
        if origin is not None:
            yield split, origin


def archive_of_dataset(config: Config, dataset: str) -> str | None:
    """Return the archive that some split of a dataset is taken from, or None."""
    origins = {origin for _, origin in data_splits(config, dataset)}
    return config.definitions.datasets[dataset].archive if "archive" in origins else None


def local_files(config: Config, dataset: str) -> list[str]:
    """Return the files below ``data_root`` that a dataset is taken from."""
    entry = config.definitions.datasets[dataset]
    return [
        f"{config.profile.data_root}/{entry.local[split]}"
        for split, origin in data_splits(config, dataset)
        if origin == "local"
    ]


def archive_spec(config: Config, archive: str) -> dict[str, Any]:
    """Return the settings of ``fetch_archive``."""
    return config.definitions.archives[archive].model_dump(mode="json", exclude={"licence"})


def _shape(config: Config, model: str) -> dict[str, Any]:
    entry = config.definitions.models[model]
    return {
        "n_layers": entry.n_layers,
        "hidden_size": entry.hidden_size,
        "parameters": entry.parameters,
        "layer_parameters": entry.layer_parameters,
        **({} if entry.vocabulary is None else {"vocabulary": entry.vocabulary}),
    }


def model_origin(config: Config, model: str) -> dict[str, str | None]:
    """Return where a model comes from, in words, and which version or commit of it."""
    entry = config.definitions.models[model].source
    match model_source(config, model):
        case ArchiveSource(archive=archive, file=file):
            wheel = config.definitions.archives[archive]
            source = f"{wheel.package}, {PurePosixPath(file).name}"
            return {"source": source, "revision": wheel.version}
        case HubSource(repo=repo, revision=revision):
            return {"source": repo, "revision": revision}
        case LocalSource(path=path):
            # Nobody has checked which commit of the repository the folder holds.
            name = entry.repo if isinstance(entry, HubSource) else path
            return {"source": name, "revision": None}


def convert_model_spec(config: Config, model: str) -> dict[str, Any]:
    """Return the settings of ``convert_model``."""
    source = config.definitions.models[model].source
    if not isinstance(source, ArchiveSource):
        raise TypeError(f"{model} does not come from an archive")
    return {"format": source.format, "file": source.file, "expected": _shape(config, model)}


def fetch_model_spec(config: Config, model: str) -> dict[str, Any]:
    """Return the settings of ``fetch_model``."""
    entry = config.definitions.models[model]
    match model_source(config, model):
        case HubSource(repo=repo, revision=revision):
            source = {"kind": "hub", "repo": repo, "revision": revision}
        case LocalSource(path=path):
            source = {"kind": "local", "path": path}
        case ArchiveSource():
            raise TypeError(f"{model} comes from an archive")
    return {
        "source": source,
        "expected": _shape(config, model),
        "trust_remote_code": entry.trust_remote_code,
    }


def local_model_files(config: Config, model: str) -> list[str]:
    """Return the files of a model that comes from a folder, sorted; none where it is not there."""
    source = model_source(config, model)
    if not isinstance(source, LocalSource):
        return []
    found = sorted(Path(source.path).glob("*"))
    return [
        str(path)
        for path in found
        if path.is_file() and path.suffix in MODEL_SUFFIXES and path.name != "manifest.json"
    ]


def refuse_unpinned(config: Config, models: Iterable[str], datasets: Iterable[str]) -> None:
    """Refuse to fetch from the hub what no commit hash pins, before any job runs.

    Args:
        config: The config.
        models: Models that are to be fetched.
        datasets: Datasets that are to be fetched.

    Raises:
        LpstepsError: Some are not pinned; the message names their keys.
    """
    keys = []
    for model in sorted(set(models)):
        source = model_source(config, model)
        if isinstance(source, HubSource) and source.revision is None:
            keys.append(f"models.{model}.source.revision")
    for dataset in sorted(set(datasets)):
        hub = config.definitions.datasets[dataset].hub
        origins = {origin for _, origin in data_splits(config, dataset)}
        if hub is not None and hub.revision is None and "hub" in origins:
            keys.append(f"datasets.{dataset}.hub.revision")
    if keys:
        raise LpstepsError(
            f"{', '.join(keys)}: null: nothing is fetched without a commit hash; copy it from the "
            "repository's page on the Hub (Files and versions, History), or put the files below "
            "model_root or data_root (docs/models.md)"
        )


def fetch_data_spec(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings of ``fetch_data``: for each split, where it is and in which format."""
    entry = config.definitions.datasets[dataset]
    splits: dict[str, dict[str, Any]] = {}
    for split, origin in data_splits(config, dataset):
        if origin == "local":
            splits[split] = {"path": f"{config.profile.data_root}/{entry.local[split]}"}
        elif origin == "archive":
            splits[split] = entry.splits[split].model_dump(mode="json")
        elif entry.hub is not None:
            splits[split] = {**entry.hub.model_dump(mode="json"), "split": split}
    return {"dataset": dataset, "columns": list(entry.columns), "splits": splits}


def tokenize_corpus_spec(config: Config, model: str, corpus: str, split: str) -> dict[str, Any]:
    """Return the settings of ``tokenize_corpus``."""
    entry = config.definitions.corpora[corpus]
    return {
        "corpus": corpus,
        "split": split,
        "dataset_split": entry.split,
        "text": entry.text,
        "group": entry.group,
        "separator": entry.separator,
        "partitions": entry.partitions,
        "seed": entry.seed,
        "sampling": entry.sampling,
        "count": entry.count,
        "length": entry.length or config.profile.window_length,
        "add_bos": config.definitions.models[model].add_bos,
    }


def corpus_windows(config: Config, model: str, calibration: str) -> str:
    """Return the windows of a calibration's corpus."""
    entry = config.definitions.calibrations[calibration]
    return f"results/{model}/windows/{entry.corpus}/{entry.split}.parquet"


def calibration_windows(config: Config, model: str, calibration: str) -> str:
    """Return the windows that a calibration reads: the corpus's, or with the model's own."""
    if config.definitions.calibrations[calibration].generated:
        return f"results/{model}/calibration/{calibration}/windows.parquet"
    return corpus_windows(config, model, calibration)


def extended_calibrations(config: Config) -> list[str]:
    """Return the calibrations with text of the model's own, sorted."""
    entries = config.definitions.calibrations
    return sorted(name for name in entries if entries[name].generated)


def extend_windows_spec(config: Config, calibration: str) -> dict[str, Any]:
    """Return the settings of ``extend_windows``."""
    entry = config.definitions.calibrations[calibration]
    return {
        "windows": entry.windows,
        "generated": entry.generated,
        "seed": config.profile.seed,
    }


def calibrate_spec(config: Config, calibration: str) -> dict[str, Any]:
    """Return the settings of ``calibrate``."""
    entry = config.definitions.calibrations[calibration]
    return {
        "windows": entry.total_windows,
        "exclude_first": entry.exclude_first,
        "batch": 1,
        "basis": "hadamard",
    }


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


def choose_layers_spec(config: Config, model: str, selection: str, n: int) -> dict[str, Any]:
    """Return the settings of ``choose_layers``."""
    return {
        "model": model,
        "selection": selection,
        "n": n,
        "n_layers": config.definitions.models[model].n_layers,
    }


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


def measure_token_scales_spec(config: Config, calibration: str) -> dict[str, Any]:
    """Return the settings of ``measure_token_scales``: the text is that of the calibration."""
    entry = config.definitions.calibrations[calibration]
    return {
        "windows": entry.total_windows,
        "exclude_first": entry.exclude_first,
        "basis": "hadamard",
    }


def recovery_modules(config: Config, recovery: str) -> list[str]:
    """Return the method modules that ``build_patch`` runs for a recovery."""
    return [f"lpsteps.recovery.{_with_method(config, recovery).method}"]


def build_patch_spec(config: Config, calibration: str, recovery: str) -> dict[str, Any]:
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
    return spec


def distilled(config: Config, recovery: str) -> DistilledRecovery:
    """Return a recovery that is distilled."""
    entry = config.definitions.recoveries[recovery]
    if not isinstance(entry, DistilledRecovery):
        raise TypeError(f"{recovery} is not distilled")
    return entry


def training_text(config: Config) -> TrainingText:
    """Return the text that the profile's distilled recoveries are trained on.

    Raises:
        LpstepsError: The profile names none; it may do so when no table shows such a recovery.
    """
    if config.profile.training_text is None:
        raise LpstepsError(
            f"{config.source}: training_text: null: a distillation needs one; "
            f"{nearest('', config.definitions.training_texts)}"
        )
    return config.definitions.training_texts[config.profile.training_text]


def training_length(config: Config) -> int:
    """Return the tokens of each window of the training text."""
    corpus = config.definitions.corpora[training_text(config).fit[0].corpus]
    return corpus.length or config.profile.window_length


def training_files(model: str, sources: Sequence[TextSource]) -> dict[str, str]:
    """Return ``{corpus: windows}`` of a part of the training text, in its order."""
    return {
        source.corpus: f"results/{model}/windows/{source.corpus}/{source.split}.parquet"
        for source in sources
    }


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
    return f"{plan.plan_folder}/teacher/{entry.start}/{_store_name(settings)}/manifest.json"


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


def overheads_mb(config: Config, model: str) -> int:
    """Return the memory for measuring costs: of the model, and of one layer on the whole batch.

    A layer's activations are about as large as 16 times its input.
    """
    settings, hidden_size = config.profile.overheads, config.definitions.models[model].hidden_size
    tokens = settings.batch * (settings.length or config.profile.window_length)
    return memory_mb(config, model) + tokens * hidden_size * 16 * 4 // 10**6


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
        "length": profile.overheads.length or profile.window_length,
        "top_k": DistillationSettings().top_k,
        "tokens": tokens,
        "seed": profile.seed,
    }


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


def _width_method(config: Config, width: str) -> tuple[ModuleType, BaseModel]:
    """Return the module of a width pruning's method and its checked parameters."""
    entry = config.definitions.width_prunings[width]
    method = methods.width_method(entry.method)
    return method, method.Params(**entry.params)


def width_unsuited(config: Config, model: str, width: str, n: int) -> str | None:
    """Return why a width pruning cannot take the parameters of n layers from a model, or None."""
    if config.definitions.models[model].trust_remote_code:
        return (
            "runs code of its own, whose heads and channels are not known; name a copy in a layout "
            "that transformers has to prune its width"
        )
    method, params = _width_method(config, width)
    reason: str | None = method.unsuited(params, n, config.definitions.models[model].n_layers)
    return reason


def width_modules(config: Config, width: str) -> list[str]:
    """Return the method modules that ``prune_width`` runs for a width pruning."""
    return [f"lpsteps.width.{config.definitions.width_prunings[width].method}"]


def prune_width_mb(config: Config, model: str) -> int:
    """Return the memory for a width pruning: of the model, and as much for gradients."""
    return memory_mb(config, model) + config.definitions.models[model].parameters * 4 // 10**6


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


def width_facts(config: Config, width: str) -> dict[str, Any]:
    """Return what the tables say of a width pruning: title, and levels without it, with reasons."""
    levels: dict[str, set[int]] = {}
    for row in config.profile.tables.values():
        for model, counts in row.items():
            levels.setdefault(model, set()).update(counts)
    unsuited = {
        model: {str(n): width_unsuited(config, model, width, n) for n in sorted(counts)}
        for model, counts in sorted(levels.items())
    }
    return {
        "title": config.definitions.width_prunings[width].title,
        "unsuited": {
            model: {n: reason for n, reason in reasons.items() if reason is not None}
            for model, reasons in unsuited.items()
        },
    }


def suite_inputs(config: Config, model: str, suite: str) -> dict[str, str]:
    """Return ``{benchmark: file}``: windows for perplexity, data manifests for the harness."""
    files: dict[str, str] = {}
    for name in config.profile.suites[suite].benchmarks:
        match config.benchmarks[name]:
            case PerplexityBenchmark(corpus=corpus, split=split):
                files[name] = f"results/{model}/windows/{corpus}/{split}.parquet"
            case HarnessBenchmark(dataset=dataset):
                files[name] = f"resources/data/{dataset}/manifest.json"
    return files


def evaluate_spec(config: Config, model: str, lineage: str, suite: str) -> dict[str, Any]:
    """Return the settings of ``evaluate_perplexity`` and ``evaluate_harness``."""
    entry = config.profile.suites[suite]
    spec = {
        "model": model,
        "variant": lineage,
        "benchmarks": {name: config.benchmarks[name].scoring() for name in entry.benchmarks},
        "batch_tokens": config.profile.batch_tokens,
        "seed": config.profile.seed,
    }
    if entry.protocol == "perplexity":
        return {**spec, "windows": entry.benchmarks}
    return {**spec, "limits": entry.benchmarks, "add_bos": config.definitions.models[model].add_bos}


def recovery_facts(config: Config, calibration: str, recovery: str) -> dict[str, Any]:
    """Return what the tables say of a recovery on a calibration.

    Its title, the tokens of text that it reads, how long it is trained on how many of them, what a
    distillation does, and for which of the profile's numbers of layers it is unsuited, with the
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
    rows = config.profile.tables.values()
    levels = {n for row in rows for counts in row.values() for n in counts}
    reasons = {str(n): recovery_unsuited(config, recovery, n) for n in sorted(levels)}
    return {
        "title": entry.title,
        "calibration_tokens": tokens,
        "training": training,
        "distillation": distillation,
        "unsuited": {n: reason for n, reason in reasons.items() if reason is not None},
    }


def _text_of_method(
    config: Config, calibration: str, method: ModuleType, params: BaseModel
) -> tuple[int | None, dict[str, Any] | None]:
    """Return the tokens that a method reads, and how long it is trained on how many of them."""
    entry = config.definitions.calibrations[calibration]
    corpus = config.definitions.corpora[entry.corpus]
    window = corpus.length or config.profile.window_length
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


def build_tables_spec(config: Config) -> dict[str, Any]:
    """Return the settings of ``build_tables``."""
    definitions, profile = config.definitions, config.profile
    reasons = {
        name: unavailable(config, benchmark) for name, benchmark in config.benchmarks.items()
    }
    return {
        "profile": config.source,
        "calibration": profile.calibration,
        "tables": {
            table: {model: list(counts) for model, counts in row.items()}
            for table, row in profile.tables.items()
        },
        "figures": {
            figure: {model: list(counts) for model, counts in row.items()}
            for figure, row in profile.figures.items()
        },
        "order": _models_in_order(config),
        "models": {
            model: {
                "title": definitions.models[model].title,
                **model_origin(config, model),
                **_shape(config, model),
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
        "widths": {name: width_facts(config, name) for name in definitions.width_prunings},
        "recoveries": {
            name: recovery_facts(config, profile.calibration, name)
            for name, entry in definitions.recoveries.items()
            # Without a text, no table of the profile shows what is distilled.
            if profile.training_text is not None or isinstance(entry, MethodRecovery)
        },
        "own_calibrations": _own_calibrations(config),
        "unavailable_calibrations": _unavailable_calibrations(config),
    }


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
