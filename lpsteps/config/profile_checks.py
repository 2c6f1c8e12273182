"""Checks of a profile against the definitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lpsteps.config.availability import unavailable, unavailable_calibration, unavailable_split
from lpsteps.config.definition_checks import require, shared_text
from lpsteps.config.definitions import DistilledRecovery, TextSource
from lpsteps.config.method_text_checks import check_text_of_methods
from lpsteps.config.profile import Config
from lpsteps.errors import LpstepsError, nearest
from lpsteps.evaluation.benchmark import PerplexityBenchmark
from lpsteps.methods import selection_method
from lpsteps.report.definitions import NO_RECOVERY


def _shown_distillations(config: Config) -> dict[str, tuple[str, str]]:
    """Return the first table that shows each distilled recovery, and its distillation.

    A row that says what it lacks may lack text as well, and does not count.
    """
    shown = {
        row.recovery: table
        for table, definition in reversed(config.tables.items())
        for row in definition.rows
        if row.query in definition.variants() and row.selection and row.missing is None
    }
    return {
        name: (table, entry.distillation)
        for name, table in sorted(shown.items())
        if isinstance(entry := config.definitions.recoveries.get(name), DistilledRecovery)
    }


def _check_training_text(config: Config) -> None:
    """Check that the text of the distilled recoveries is there, long enough, and not scored.

    Its windows must be of one length.
    """
    source, profile, definitions = config.source, config.profile, config.definitions
    where = f"{source}: training_text"
    trained = _shown_distillations(config)
    if profile.training_text is None:
        for name, (table, _) in trained.items():
            raise LpstepsError(
                f"{where}: null: {table} shows recovery '{name}', which is trained; "
                f"{nearest('', definitions.training_texts)}"
            )
        return
    require(where, "training text", profile.training_text, definitions.training_texts)
    text = definitions.training_texts[profile.training_text]
    lengths: dict[int, str] = {}
    for part in (*text.fit, *text.heldout):
        corpus = definitions.corpora[part.corpus]
        reason = unavailable_split(config, corpus.dataset, corpus.split, with_path=True)
        if reason is not None:
            raise LpstepsError(f"{where}: {profile.training_text}: {part.corpus}: {reason}")
        lengths[config.window_length(part.corpus)] = part.corpus
    if len(lengths) > 1:
        found = ", ".join(f"{length} in {corpus}" for length, corpus in sorted(lengths.items()))
        raise LpstepsError(
            f"{where}: {profile.training_text}: windows of several lengths, {found}; set "
            "window_length or the corpora's `length` so that they agree"
        )
    _check_text_is_not_scored(
        config, f"{where}: {profile.training_text}", (*text.fit, *text.heldout)
    )
    for name, (table, distillation) in trained.items():
        lacking = config.lacking_text(distillation)
        if lacking is not None:
            raise LpstepsError(
                f"{where}: {profile.training_text}: {table} shows recovery '{name}', whose "
                f"distillation '{distillation}' {lacking}; ask for fewer or name a longer text"
            )


def _check_text_is_not_scored(config: Config, where: str, sources: Iterable[TextSource]) -> None:
    corpora = config.definitions.corpora
    scored = [name for suite in config.profile.suites.values() for name in suite.benchmarks]
    for name in scored:
        benchmark = config.benchmarks[name]
        if not isinstance(benchmark, PerplexityBenchmark) or benchmark.corpus not in corpora:
            continue
        for part in sources:
            overlap = shared_text(config.definitions, part, benchmark.corpus, benchmark.split)
            if overlap is not None:
                raise LpstepsError(
                    f"{where}: {part.corpus}: {overlap} is scored by benchmark '{name}'; use "
                    "other text"
                )


def _check_figures(config: Config) -> None:
    selections = config.definitions.selections
    for figure, definition in config.figures.items():
        where = f"reports/figures/{figure}.yaml: selection"
        require(where, "selection", definition.selection, selections)
        if selection_method(selections[definition.selection].metric).KIND != "window":
            windows = (
                name
                for name, entry in selections.items()
                if selection_method(entry.metric).KIND == "window"
            )
            raise LpstepsError(
                f"{where}: {definition.selection}: does not remove one window of layers; "
                f"{nearest('', windows)}"
            )
        for model, counts in config.profile.figures[figure].items():
            if definition.needs_levels and not counts:
                raise LpstepsError(
                    f"{config.source}: figures.{figure}.{model}: []: name the numbers of removed "
                    "layers to draw"
                )


def _check_folders(config: Config) -> None:
    for key in ("data_root", "model_root"):
        folder = getattr(config.profile, key)
        if folder is not None and not Path(folder).is_dir():
            raise LpstepsError(
                f"{config.source}: {key}: {folder}: no such folder; correct the path"
            )


def _check_calibrations(config: Config) -> None:
    """Check that the profile's calibration can be had, and that none of those in use is scored."""
    profile, definitions = config.profile, config.definitions
    where = f"{config.source}: calibration"
    require(where, "calibration", profile.calibration, definitions.calibrations)
    reason = unavailable_calibration(config, profile.calibration, with_path=True)
    if reason is not None:
        raise LpstepsError(f"{where}: {profile.calibration}: {reason}")
    queries = [query for table in config.tables.values() for query in table.queries() if query]
    named = {query.calibration or profile.calibration for query in queries} | {profile.calibration}
    for name in sorted(named & definitions.calibrations.keys()):
        text = definitions.calibrations[name]
        source_text = TextSource(corpus=text.corpus, split=text.split, windows=text.windows)
        _check_text_is_not_scored(config, definitions.place("calibrations", name), [source_text])


def _check_width_rows(config: Config) -> None:
    """Check that no row repairs a model of less width, which has no cut."""
    for table, definition in config.tables.items():
        for query in filter(None, definition.queries()):
            pruned = query.selection in config.definitions.width_prunings
            if pruned and query.recovery != NO_RECOVERY:
                raise LpstepsError(
                    f"reports/tables/{table}.yaml: recovery: {query.recovery}: '{query.selection}' "
                    "prunes the width and leaves no cut to repair; leave it out"
                )


def _check_levels(config: Config) -> None:
    """Check the models of all tables and figures, and their numbers of layers."""
    shown = {"tables": config.profile.tables, "figures": config.profile.figures}
    for section, entries in shown.items():
        for entry, counts_by_model in entries.items():
            for model, counts in counts_by_model.items():
                where = f"{config.source}: {section}.{entry}.{model}"
                require(where, "model", model, config.definitions.models)
                _check_counts(where, counts, config.definitions.models[model].n_layers)


def _check_counts(where: str, counts: Sequence[int], n_layers: int) -> None:
    for count in counts:
        if count >= n_layers:
            raise LpstepsError(
                f"{where}: {count}: cannot remove {count} layers from a model with "
                f"{n_layers}; allowed: 1 to {n_layers - 1}"
            )
    if len(set(counts)) != len(counts):
        raise LpstepsError(
            f"{where}: {list(counts)}: a number of layers is listed twice; name it once"
        )


def _check_suites(config: Config) -> None:
    """Check that the benchmarks of all suites can be scored, and that none is in two of them."""
    suites = config.profile.suites
    for suite_name, suite in suites.items():
        for name in suite.benchmarks:
            where = f"{config.source}: suites.{suite_name}.benchmarks.{name}"
            benchmark = config.benchmarks[name]
            if benchmark.protocol != suite.protocol:
                raise LpstepsError(
                    f"{where}: belongs to protocol '{benchmark.protocol}', not '{suite.protocol}'; "
                    "move it to a suite of its protocol"
                )
            reason = unavailable(config, benchmark, with_path=True)
            if reason is not None:
                raise LpstepsError(f"{where}: {reason}, or leave it out of the suite")
    listed = [name for suite in suites.values() for name in suite.benchmarks]
    for name in listed:
        if listed.count(name) > 1:
            raise LpstepsError(
                f"{config.source}: suites: benchmark '{name}' is in more than one suite; "
                "list it once"
            )


def check_profile(config: Config) -> None:
    """Check that a profile asks for what there is, and for nothing that contradicts itself.

    Raises:
        LpstepsError: The first key that is wrong.
    """
    _check_folders(config)
    _check_calibrations(config)
    _check_training_text(config)
    _check_width_rows(config)
    _check_figures(config)
    _check_levels(config)
    _check_suites(config)
    check_text_of_methods(config)
