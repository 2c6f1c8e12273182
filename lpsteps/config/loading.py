"""From files to a checked configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lpsteps.config.definition_checks import check_definitions, require
from lpsteps.config.definitions import Definitions
from lpsteps.config.profile import ONLY_REQUESTS, Config, Profile
from lpsteps.config.profile_checks import check_profile
from lpsteps.definition_files import read_yaml_file
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import list_benchmarks, load_benchmark
from lpsteps.report.definitions import list_tables, load_table
from lpsteps.report.figure_definitions import list_figures, load_figure
from lpsteps.validation import validated


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        LpstepsError: The file is missing, does not parse, or holds something else.
    """
    payload = read_yaml_file(path)
    if not isinstance(payload, dict):
        raise LpstepsError(f"{path}: expected a mapping of keys to values, such as `seed: 0`")
    return payload


def load_definitions(paths: Iterable[Path]) -> Definitions:
    """Read and merge definition files.

    Raises:
        LpstepsError: A key is unknown, a value is wrong, or two files define the same name.
    """
    merged: dict[str, dict[str, Any]] = {}
    origin: dict[tuple[str, str], Path] = {}
    for path in paths:
        payload = read_yaml(path)
        validated(Definitions, payload, str(path))
        for section, entries in payload.items():
            for name, entry in (entries or {}).items():
                if (section, name) in origin:
                    other = origin[section, name]
                    raise LpstepsError(
                        f"{path}: {section}.{name}: already defined in {other}; rename one"
                    )
                origin[section, name] = path
                merged.setdefault(section, {})[name] = entry
    definitions = Definitions.model_validate(merged)
    definitions.remember_files(origin)
    return definitions


def load_config(
    payload: Mapping[str, Any],
    sources: Sequence[str],
    root: Path = Path(),
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Check a profile and load everything that it refers to.

    Args:
        payload: The profile's content, as Snakemake read it.
        sources: The files that it came from, for messages.
        root: Folder that the paths in the profile are relative to.
        overrides: The part of the content that came from the command line's ``--config``.

    Returns:
        The complete, read-only configuration.

    Raises:
        LpstepsError: Anything is wrong; see the module's docstring.
    """
    files = ", ".join(sources) or "config"
    profile = validated(Profile, payload, files, overrides)
    source = f"{files}, --config" if overrides else files
    definitions = load_definitions(root / path for path in profile.definitions)
    check_definitions(definitions)
    for table in profile.tables:
        require(f"{source}: tables", "table", table, list_tables())
    for figure in profile.figures:
        require(f"{source}: figures", "figure", figure, list_figures())
    known = list_benchmarks()
    for suite_name, suite in profile.suites.items():
        for name in suite.benchmarks:
            require(f"{source}: suites.{suite_name}", "benchmark", name, known)
    config = Config(
        source=source,
        files=tuple(sources),
        overrides={
            key: value for key, value in (overrides or {}).items() if key not in ONLY_REQUESTS
        },
        profile=profile,
        definitions=definitions,
        tables={name: load_table(name) for name in sorted(profile.tables)},
        figures={name: load_figure(name) for name in sorted(profile.figures)},
        benchmarks={name: load_benchmark(name) for name in known},
    )
    check_profile(config)
    return config


def read_config(*paths: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load a profile from its files; the paths in them are relative to the working directory.

    Args:
        paths: One file, or several, of which a later one overrides an earlier one key by key, as
            Snakemake does it.
        overrides: Keys that override those of all files.

    Raises:
        LpstepsError: A file is missing, or anything in it is wrong.
    """
    payload: dict[str, Any] = {}
    for path in paths:
        payload = _overridden(payload, read_yaml(path))
    payload = _overridden(payload, overrides or {})
    return load_config(payload, [str(path) for path in paths], overrides=overrides)


def _overridden(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the keys of another one in place of its own, at every depth."""
    merged = dict(base)
    for key, value in other.items():
        if isinstance(value, Mapping):
            own = merged.get(key)
            value = _overridden(own if isinstance(own, Mapping) else {}, value)
        merged[key] = value
    return merged
