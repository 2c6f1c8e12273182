"""Write docs/reliability.md: which faults were tried, how often, and what became of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from faults.outcome import Ending, Outcome
from faults.table_cells import code_cell

ENDINGS: tuple[Ending, ...] = (
    "finished",
    "continued",
    "told",
    "withheld",
    "wrong",
    "not tried",
)

# The stand-in for the hub has another port in each run.
_LOCAL_HUB = re.compile(r"http://127\.0\.0\.1:\d+")

INTRODUCTION = """# Reliability

What a long run may meet, tried on the tiny project of the tests, whose every byte is known. The
table is written by `make test-faults`.

- *finished*: the fault changed nothing.
- *continued*: the run was cut short; the same command went on to the same bytes.
- *told*: it stopped with one line that says what to do; without the fault, the same command went on
  to the same bytes.
- *withheld*: the tables were made without the numbers that rest on the damaged file, each of which is
  missing with that reason; the others are the same. With the file restored they have all numbers.
- *wrong*: a false or half-written result, a lost one, a traceback, a temporary file left behind, or a
  message that is not exactly one line.

"""


def reliability_page(outcomes: Sequence[Outcome]) -> str:
    """Return the page as Markdown."""
    counts = Counter((outcome.fault, outcome.ending) for outcome in outcomes)
    faults = list(dict.fromkeys(outcome.fault for outcome in outcomes))
    shown = [ending for ending in ENDINGS if any(counts[fault, ending] for fault in faults)]
    if "wrong" not in shown:
        shown = [ending for ending in ENDINGS if ending in shown or ending == "wrong"]
    lines = [
        f"| fault | tries | {' | '.join(shown)} |",
        f"|---|---:|{'---:|' * len(shown)}",
    ]
    for fault in faults:
        numbers = [counts[fault, ending] for ending in shown]
        lines.append(f"| {fault} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    total = [sum(counts[fault, ending] for fault in faults) for ending in shown]
    lines.append(f"| all | {sum(total)} | {' | '.join(map(str, total))} |")
    killed = sum(1 for outcome in outcomes if outcome.fault.startswith("killed"))
    rules = len({outcome.rule for outcome in outcomes if outcome.fault.startswith("killed")})
    kills = f"\n{killed} of the tries are kills with SIGKILL, in {rules} rules.\n"
    return INTRODUCTION + "\n".join(lines) + "\n" + kills + _told(outcomes)


def _told(outcomes: Sequence[Outcome]) -> str:
    """One line of each kind that was told, as an example."""
    examples: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.ending == "told":
            examples.setdefault(outcome.fault, _LOCAL_HUB.sub("https://hub", outcome.detail))
    lines = [f"| {fault} | {code_cell(text)} |" for fault, text in examples.items()]
    return "\n".join(["\n## What is told\n", "| fault | a line |", "|---|---|", *lines, ""])
