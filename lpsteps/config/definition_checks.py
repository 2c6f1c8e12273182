"""Checks of the definition files against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lpsteps.config.definitions import (
    ArchiveSource,
    Dataset,
    Definitions,
    DistilledRecovery,
    MethodRecovery,
    TextSource,
)
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError, nearest
from lpsteps.methods import method_module
from lpsteps.validation import validated


def require(where: str, kind: str, name: str, defined: Iterable[str]) -> None:
    """Raise an LpstepsError with the nearest names unless a name is defined."""
    names = list(defined)
    if name not in names:
        raise LpstepsError(f"{where}: {kind} '{name}' is not defined; {nearest(name, names)}")


def _check_methods(definitions: Definitions) -> None:
    """Check that each entry's method exists and accepts the entry's parameters."""
    entries: list[tuple[str, str, str, str, Mapping[str, Any]]] = [
        *(
            ("selections", n, "selection", e.metric, e.params)
            for n, e in definitions.selections.items()
        ),
        *(
            ("width_prunings", n, "width", e.method, e.params)
            for n, e in definitions.width_prunings.items()
        ),
        *(
            ("recoveries", n, "recovery", e.method, e.params)
            for n, e in definitions.recoveries.items()
            if isinstance(e, MethodRecovery)
        ),
    ]
    for section, name, kind, method, params in entries:
        where = definitions.place(section, name)
        try:
            module = method_module(kind, method)
        except LpstepsError as error:
            raise LpstepsError(f"{where}: {error}") from error
        validated(module.Params, params, f"{where}.params")


def _check_distillations(definitions: Definitions) -> None:
    for name, settings in definitions.distillations.items():
        validated(DistillationSettings, settings, definitions.place("distillations", name))
    methods = [n for n, e in definitions.recoveries.items() if isinstance(e, MethodRecovery)]
    for name, recovery in definitions.recoveries.items():
        if not isinstance(recovery, DistilledRecovery):
            continue
        where = definitions.place("recoveries", name)
        require(where, "distillation", recovery.distillation, definitions.distillations)
        if isinstance(definitions.recoveries.get(recovery.start), DistilledRecovery):
            raise LpstepsError(
                f"{where}: start: {recovery.start}: is distilled itself; start from a recovery "
                "with a method"
            )
        require(f"{where}: start", "recovery", recovery.start, methods)


def _check_dataset(definitions: Definitions, name: str, dataset: Dataset) -> None:
    """Check that a dataset states nothing that no step would heed."""
    where = definitions.place("datasets", name)
    if dataset.archive is not None:
        require(where, "archive", dataset.archive, definitions.archives)
    elif dataset.splits:
        raise LpstepsError(
            f"{where}.splits: {', '.join(dataset.splits)}: inside no archive; name it as `archive`"
        )
    hub = dataset.hub
    if hub is None:
        return
    if hub.format is not None and hub.files is None:
        raise LpstepsError(
            f"{where}.hub.format: {hub.format}: is that of `files`, which are not named; name "
            "them, or leave it out"
        )
    if hub.config is not None and hub.files is not None:
        raise LpstepsError(
            f"{where}.hub.config: {hub.config}: is not read where `files` name what is; leave out "
            "one of them"
        )


def _check_windows(definitions: Definitions, where: str, corpus: str, windows: int | None) -> None:
    """Check that as many windows are cut from a corpus as are read of it."""
    count = definitions.corpora[corpus].count
    if windows is not None and count is not None and windows > count:
        raise LpstepsError(
            f"{where}.windows: {windows}: {definitions.place('corpora', corpus)}.count is {count}; "
            "raise it, or ask for fewer"
        )


def _check_training_texts(definitions: Definitions) -> None:
    for name, text in definitions.training_texts.items():
        where = definitions.place("training_texts", name)
        for part, sources in (("fit", text.fit), ("heldout", text.heldout)):
            corpora = [source.corpus for source in sources]
            for source in sources:
                require(f"{where}.{part}", "corpus", source.corpus, definitions.corpora)
                partitions = definitions.corpora[source.corpus].partitions
                place = f"{where}.{part}.{source.corpus}"
                require(place, "partition", source.split, partitions)
                _check_windows(definitions, place, source.corpus, source.windows)
                if corpora.count(source.corpus) > 1:
                    raise LpstepsError(
                        f"{where}.{part}: corpus '{source.corpus}' is listed twice; name it once"
                    )
        for source in text.heldout:
            for fitted in text.fit:
                overlap = shared_text(definitions, source, fitted.corpus, fitted.split)
                if overlap is not None:
                    raise LpstepsError(
                        f"{where}.heldout: {source.corpus}: {overlap} is trained on; hold out "
                        "other text"
                    )


def shared_text(
    definitions: Definitions, source: TextSource, corpus: str, split: str
) -> str | None:
    """Return what a source may have in common with a partition of a corpus, or None.

    Partitions of one corpus are disjoint. Two corpora of the same data divide it each in its own
    way.
    """
    if source.corpus == corpus:
        return f"partition '{split}'" if source.split == split else None
    one, other = definitions.corpora[source.corpus], definitions.corpora[corpus]
    same = (one.dataset, one.split) == (other.dataset, other.split)
    return f"the same data, through corpus '{corpus}'," if same else None


def check_definitions(definitions: Definitions) -> None:
    """Check that all that the entries name is defined, and that their numbers are possible.

    Raises:
        LpstepsError: The first entry that is wrong, with its file.
    """
    for name, model in definitions.models.items():
        if isinstance(model.source, ArchiveSource):
            where = definitions.place("models", name)
            require(f"{where}.source", "archive", model.source.archive, definitions.archives)
    for name, dataset in definitions.datasets.items():
        _check_dataset(definitions, name, dataset)
    for name, corpus in definitions.corpora.items():
        where = definitions.place("corpora", name)
        require(where, "dataset", corpus.dataset, definitions.datasets)
        dataset = definitions.datasets[corpus.dataset]
        # The hub itself knows the splits of what is read by its name there.
        if dataset.hub is None or dataset.hub.files is not None:
            files = dataset.hub.files if dataset.hub is not None else None
            require(where, "split", corpus.split, {*dataset.splits, *dataset.local, *(files or ())})
        total = sum(corpus.partitions.values())
        if min(corpus.partitions.values(), default=0) <= 0 or total > 1 + 1e-9:
            raise LpstepsError(
                f"{where}.partitions: {dict(corpus.partitions)}: shares must be "
                f"positive and add up to at most 1, they add up to {total:g}"
            )
    for name, calibration in definitions.calibrations.items():
        where = definitions.place("calibrations", name)
        require(where, "corpus", calibration.corpus, definitions.corpora)
        partitions = definitions.corpora[calibration.corpus].partitions
        require(where, "partition", calibration.split, partitions)
        _check_windows(definitions, where, calibration.corpus, calibration.windows)
    _check_training_texts(definitions)
    for name in definitions.width_prunings:
        if name in definitions.selections:
            raise LpstepsError(
                f"{definitions.place('width_prunings', name)}: a selection has this name, too; "
                "rows of tables name either, so rename one"
            )
    _check_methods(definitions)
    _check_distillations(definitions)
