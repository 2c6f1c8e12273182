"""Writes ``docs/performance.md`` from the results beside this file.

Run it with ``python -m benchmarks.page``; ``make bench`` does after each benchmark. Every number on
the page comes from a result, and what has not been measured says so. Whoever measures on another
machine gets that machine's page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.measure import RESULTS, figure
from lpsteps.artifacts import read_json
from lpsteps.fingerprint import ROOT

PAGE = ROOT / "docs/performance.md"
TEMPLATE = "performance.md.j2"
MISSED = "**no**"
BENCHMARKS = (
    "calibration",
    "perplexity",
    "question_answering",
    "distillation",
    "least_squares",
    "hadamard",
    "patch_application",
    "pipeline",
)


def limit_text(figure: Mapping[str, Any]) -> str:
    """Return the limit of a figure in words, empty where it has none."""
    if "at_most" in figure:
        return f"at most {number_text(figure['at_most'])}"
    if "at_least" in figure:
        return f"at least {number_text(figure['at_least'])}"
    return ""


def value_text(figure: Mapping[str, Any]) -> str:
    """Return the value of a figure with its unit, without one where it is a ratio."""
    unit = "" if figure["unit"] == "times" else f" {figure['unit']}"
    return f"{number_text(figure['value'])}{unit}"


def is_kept(figure: Mapping[str, Any]) -> str:
    """Return whether a figure keeps its limit, empty where it has none."""
    if not limit_text(figure):
        return ""
    kept = figure.get("at_least", figure["value"]) <= figure["value"]
    kept = kept and figure["value"] <= figure.get("at_most", figure["value"])
    return "yes" if kept else MISSED


def misses(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the figures of a section that miss their limit, in words."""
    return [
        f"{figure['name']}{_in_dtype(result)}: {value_text(figure)}; "
        f"the limit is {limit_text(figure)}"
        for result in results
        for figure in result["figures"]
        if is_kept(figure) == MISSED
    ]


def distillation_figures(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a result of the distillation says about the limits that the project sets itself.

    They hold for one window at a time, as in the released code.
    """
    peaks = result["peak_memory_bytes"]
    limits = {"fused": 1.5, "offline, further epoch": 2.2}
    return [
        figure(f"{name}, speed-up over the released code", result["speedup"][name], at_least=limit)
        for name, limit in limits.items()
    ] + [
        figure(
            f"{name}, more peak memory than the released code",
            (peaks[name] - peaks["official"]) / 1e6,
            "MB",
            at_most=0,
        )
        for name in limits
    ]


def _in_dtype(result: Mapping[str, Any]) -> str:
    dtype = result["settings"].get("dtype")
    return f", {dtype}" if dtype else ""


def number_text(value: float) -> str:
    """Return a number with three digits, and without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def commit_text(commit: Mapping[str, Any]) -> str:
    """Return the commit of a result, and whether its files had been edited."""
    if not commit:
        return "unknown"
    return f"{commit['commit'][:12]}{' with edits' if commit['dirty'] else ''}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the settings of a result as one line."""
    return "; ".join(f"{name.replace('_', ' ')}: {_plain(settings[name])}" for name in settings)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def render(folder: Path = RESULTS) -> str:
    """Return the page.

    Args:
        folder: Where the results lie; a benchmark without one is shown as not measured.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "commit": commit_text,
        "kept": is_kept,
        "limit": limit_text,
        "misses": misses,
        "number": number_text,
        "settings": settings_text,
        "value": value_text,
    }
    results = {
        name: [
            read_json(path)
            for path in (folder / f"{name}.json", *sorted(folder.glob(f"{name}-*.json")))
            if path.is_file()
        ]
        for name in BENCHMARKS
    }
    for result in results["distillation"]:
        result["figures"] = distillation_figures(result)
    return environment.get_template(TEMPLATE).render(results=results)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
