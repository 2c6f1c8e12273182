"""The counts of ``tables.json`` in words: what the page says on top and above each table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lpsteps.report.verdicts import WORDS
from lpsteps.wording import counted

SIGNS = {
    "reproduced": "=",
    "close": "\N{ALMOST EQUAL TO}",
    "differs": "\N{NOT EQUAL TO}",
    "undecided": "?",
}


@dataclass(frozen=True)
class SummaryView:
    """The summary on top of the page.

    Attributes:
        beside: How many measured numbers stand beside a printed one.
        verdicts: Sign, count and word of each verdict; empty where there are none.
        caveat: How many of the verdicts are on printed values that are odd.
        unjudged: Numbers beside a printed one that have no verdict: count and reason.
        missing: Missing cells: count and reason, the most frequent first.
        comparisons: What came of comparing rows; empty where none were compared.
    """

    beside: str
    verdicts: tuple[tuple[str, int, str], ...]
    caveat: str
    unjudged: tuple[tuple[int, str], ...]
    missing: tuple[tuple[int, str], ...]
    comparisons: str


def summary_view(summary: Mapping[str, Any]) -> SummaryView:
    """Put the summary of the run into words."""
    judged = sum(summary[word] for word in WORDS)
    noted = summary["noted"]
    return SummaryView(
        beside=_beside(summary),
        verdicts=tuple((SIGNS[word], summary[word], word) for word in WORDS if judged),
        caveat=f"{noted} of {judged} on a printed value with a note." if noted else "",
        unjudged=_pairs(summary["unjudged"]),
        missing=_pairs(summary["reasons"]),
        comparisons=_comparisons(summary["comparisons"]),
    )


def table_line(summary: Mapping[str, Any]) -> str:
    """Return the summary of one table in a line."""
    parts = [f"{summary['measured']} measured", f"{summary['missing']} missing"]
    verdicts = [f"{summary[word]} {word}" for word in WORDS if summary[word]]
    if verdicts:
        parts.append(f"beside the paper {', '.join(verdicts)}")
    best = summary["comparisons"]["versus_best"]
    if best["made"]:
        alike = best["made"] - best["told_apart"]
        parts.append(f"{alike} of {best['made']} cannot be told from the best of their column")
    return "; ".join(parts)


def _beside(summary: Mapping[str, Any]) -> str:
    if summary["counterparts"]:
        verb = "stands" if summary["counterparts"] == 1 else "stand"
        return f"{counted(summary['counterparts'], 'measured cell')} {verb} beside a printed value."
    if summary["printed_only"]:
        printed = counted(summary["printed_only"], "cell")
        return f"{printed} with a printed value, none of them measured."
    return "The paper prints no number for what this run measures."


def _comparisons(comparisons: Mapping[str, Mapping[str, int]]) -> str:
    sentences = [
        f"{found['told_apart']} of {found['made']} numbers can be told from {other} at the "
        "5 % level."
        for name, other in (
            ("versus_best", "the best of their column"),
            ("versus_unrepaired", "that of the same cut without repair"),
        )
        if (found := comparisons[name])["made"]
    ]
    return " ".join(sentences)


def _pairs(reasons: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, str], ...]:
    return tuple((entry["count"], entry["reason"]) for entry in reasons)
