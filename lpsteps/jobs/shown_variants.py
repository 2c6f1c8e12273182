"""Which variants of which models the profile's tables and figures show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lpsteps import paths
from lpsteps.config import Config, unavailable_calibration
from lpsteps.jobs.recoveries import recovery_unsuited
from lpsteps.jobs.selection_levels import reachable
from lpsteps.jobs.widths import width_unsuited
from lpsteps.report.definitions import Query


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
        return paths.plan_folder(self.model, self.calibration, self.selection, self.n)

    @property
    def folder(self) -> str:
        """Folder of everything that belongs to this variant; it reads as the variant's lineage."""
        if not self.n:
            return paths.lineage_folder(self.model, paths.DENSE)
        if self.width:
            return paths.width_folder(self.model, self.calibration, self.width, self.n)
        return paths.repaired_folder(self.plan_folder, self.recovery)

    @classmethod
    def from_lineage(cls, model: str, lineage: str) -> Variant:
        """Parse the part of :attr:`folder` that follows ``results/{model}/``."""
        if lineage == paths.DENSE:
            return cls(model)
        _, calibration, kind, name, count, *recovery = lineage.split("/")
        n = int(count.removeprefix("n"))
        if kind == "width":
            return cls(model, calibration, n=n, width=name)
        return cls(model, calibration, name, n, *recovery)


def models(config: Config) -> list[str]:
    """Return the models that any table or figure of the profile shows, sorted."""
    return sorted(models_in_order(config))


def models_in_order(config: Config) -> list[str]:
    """Return the same models in the order in which the profile names them first."""
    shown = (*config.profile.tables.values(), *config.profile.figures.values())
    return list(dict.fromkeys(model for row in shown for model in row))


def variants(config: Config) -> dict[Variant, list[str]]:
    """Return all variants that the profile's tables show, with the benchmarks scored of each.

    Table rows whose selection, recovery or calibration the definitions lack are left out here; the
    table shows them as missing, with the reason that the table's definition states. So are rows on
    a calibration whose text cannot be had, levels that a selection or a recovery is unsuited for,
    and columns of benchmarks that no suite of the profile scores. One shown benchmark brings its
    whole suite, which one job scores: Snakemake notices what changed of a job only where it has
    made all of its outputs.

    Returns:
        Sorted by variant; the benchmarks are sorted, too.
    """
    suites = [set(suite.benchmarks) for suite in config.profile.suites.values()]
    found: dict[Variant, set[str]] = {}
    for table, counts_by_model in config.profile.tables.items():
        columns = set(config.tables[table].benchmarks())
        scored = set().union(*(suite for suite in suites if not suite.isdisjoint(columns)))
        for model, counts in counts_by_model.items():
            for query in config.tables[table].variants():
                for variant in _variants_of(config, model, query, counts):
                    found.setdefault(variant, set()).update(scored)
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
        for n in reachable(config, model, query.selection, counts):
            if recovery_unsuited(config, model, query.recovery, n) is None:
                yield Variant(model, calibration, query.selection, n, query.recovery)


def _has_calibration(config: Config, calibration: str) -> bool:
    """Return whether a calibration is defined and its text can be had in this profile."""
    known = calibration in config.definitions.calibrations
    return known and unavailable_calibration(config, calibration) is None


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
                    for n in reachable(config, model, query.selection, counts)
                )
    return sorted(found)


def selection_counts(config: Config, model: str, calibration: str, selection: str) -> list[int]:
    """Return the numbers of layers that some table or figure removes by a selection, sorted."""
    wanted = (model, calibration, selection)
    plans = plan_folders(config)
    return [p.n for p in plans if (p.model, p.calibration, p.selection) == wanted]


def figure_plans(config: Config, figure: str) -> list[Variant]:
    """Return one variant without recovery for each plan that a figure shows, in its order."""
    selection = config.figures[figure].selection
    return [
        Variant(model, config.profile.calibration, selection, n)
        for model, counts in config.profile.figures[figure].items()
        for n in reachable(config, model, selection, counts)
    ]
