"""Where models and data come from, and the settings of the steps that fetch them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lpsteps.config import (
    ArchiveSource,
    Config,
    HubSource,
    LocalSource,
    dataset_origin,
    model_source,
)
from lpsteps.data.model_files import model_files
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import HarnessBenchmark


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


def shape(config: Config, model: str) -> dict[str, Any]:
    """Return the sizes that a model's entry states."""
    entry = config.definitions.models[model]
    return {
        "n_layers": entry.n_layers,
        "hidden_size": entry.hidden_size,
        "parameters": entry.parameters,
        "layer_parameters": entry.layer_parameters,
        **({} if entry.vocabulary is None else {"vocabulary": entry.vocabulary}),
    }


def _expected(config: Config, model: str) -> dict[str, Any]:
    """Return what the files of a model have to agree with: its sizes and, if stated, its family."""
    family = config.definitions.models[model].model_type
    return shape(config, model) | ({} if family is None else {"model_type": family})


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
    return {"format": source.format, "file": source.file, "expected": _expected(config, model)}


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
        "expected": _expected(config, model),
        "trust_remote_code": entry.trust_remote_code,
    }


def local_model_files(config: Config, model: str) -> list[str]:
    """Return the files that a model from a folder is taken over with, sorted.

    None where the folder is not there or its weights are not whole: the step tells what is wrong.
    """
    source = model_source(config, model)
    if not isinstance(source, LocalSource) or not Path(source.path).is_dir():
        return []
    trusted = config.definitions.models[model].trust_remote_code
    try:
        return [str(path) for path in model_files(Path(source.path), with_code=trusted)]
    except LpstepsError:
        return []


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
