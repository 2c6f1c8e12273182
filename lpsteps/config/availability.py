"""What can be had in a profile, from where, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lpsteps.config.definitions import ArchiveSource, HubSource, LocalSource
from lpsteps.config.profile import Config
from lpsteps.evaluation.benchmark import Benchmark, HarnessBenchmark, PerplexityBenchmark


def model_source(config: Config, model: str) -> ArchiveSource | HubSource | LocalSource:
    """Return where a model comes from: a hub model from a folder below ``model_root`` if there.

    The folder is called as the repository, ``owner/name``, or else as the entry.
    """
    source = config.definitions.models[model].source
    root = config.profile.model_root
    if root is not None and isinstance(source, HubSource):
        for name in (source.repo, model):
            if Path(root, name, "config.json").is_file():
                return LocalSource(path=f"{root}/{name}")
    return source


def dataset_origin(
    config: Config, dataset: str, split: str
) -> Literal["local", "archive", "hub"] | None:
    """Return where a split comes from: ``data_root`` first, then an archive, then the hub.

    The hub counts only with ``hub_data``, also where no revision is pinned: that can be planned.
    """
    entry = config.definitions.datasets[dataset]
    root = config.profile.data_root
    if root is not None and split in entry.local and Path(root, entry.local[split]).is_file():
        return "local"
    if entry.archive is not None and split in entry.splits:
        return "archive"
    if entry.hub is not None and config.profile.hub_data:
        return "hub" if entry.hub.files is None or split in entry.hub.files else None
    return None


def unavailable(config: Config, benchmark: Benchmark, *, with_path: bool = False) -> str | None:
    """Return why the data of a benchmark cannot be had in this profile, or None when it can.

    Args:
        config: The configuration.
        benchmark: One of its benchmarks.
        with_path: Name the path of ``data_root``; it is of one machine and no part of a result.
    """
    definitions = config.definitions
    match benchmark:
        case PerplexityBenchmark(corpus=name, split=partition):
            if name not in definitions.corpora:
                return f"corpus '{name}' is not defined; define it"
            corpus = definitions.corpora[name]
            if partition not in corpus.partitions:
                return f"corpus '{name}' has no partition '{partition}'; add it"
            return unavailable_split(config, corpus.dataset, corpus.split, with_path)
        case HarnessBenchmark(dataset=dataset, split=split, fewshot_split=examples):
            if dataset not in definitions.datasets:
                return f"dataset '{dataset}' is not defined; define it"
            reason = unavailable_split(config, dataset, split, with_path)
            if reason is None and examples is not None:
                reason = unavailable_split(config, dataset, examples, with_path)
                return reason and f"split '{examples}' with the examples: {reason}"
            return reason


def unavailable_calibration(
    config: Config, calibration: str, *, with_path: bool = False
) -> str | None:
    """Return why the text of a calibration cannot be had in this profile, or None when it can.

    Args:
        config: The configuration.
        calibration: One of its calibrations.
        with_path: As for :func:`unavailable`.
    """
    definitions = config.definitions
    corpus = definitions.corpora[definitions.calibrations[calibration].corpus]
    return unavailable_split(config, corpus.dataset, corpus.split, with_path)


def unavailable_split(config: Config, dataset: str, split: str, with_path: bool) -> str | None:
    """Return why a split of a dataset cannot be had in this profile, or None when it can."""
    if dataset_origin(config, dataset, split) is not None:
        return None
    entry = config.definitions.datasets[dataset]
    remedy = "set data_root to a folder with local files"
    if config.profile.data_root is not None and split in entry.local:
        place = f"data_root, {config.profile.data_root}" if with_path else "the folder of data_root"
        remedy = f"put {entry.local[split]} into {place}"
    # Where nothing is pinned, hub_data alone would end in the next message.
    pinned = entry.hub is not None and entry.hub.revision is not None
    if pinned and not config.profile.hub_data:
        remedy += ", or hub_data: true"
    return f"{entry.title} is not in the embedded data; {remedy}"
