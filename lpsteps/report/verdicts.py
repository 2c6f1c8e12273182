"""Whether a measured number reproduces the printed one: one word, by a stated rule.

The paper's numbers (arXiv 2505.24680) are of whole splits. Where ours are too, both sides read the
same documents, so an exact repetition would leave no difference at all: the standard error of the
benchmark is not what should lie between the two, but the scale on which a difference matters,
since redrawing the documents would move the score by as much.

==================== ==================================== =========================================
column               reproduced                           close
==================== ==================================== =========================================
accuracies, Avg, RP  within one standard error            within two standard errors
perplexities         within 1 % of the printed value      within 5 % of the printed value
ratios and the like  equal in all printed digits          within 1 % of the printed value
layers               the same set                         all but one of the layers
==================== ==================================== =========================================

Everything further off ``differs``. Half a unit of the last printed digit is added to each bound,
because the printed value is rounded.

A limited sample can show that a number differs, but not that it is reproduced: 64 documents agree
with many printed values at once. Up to two standard errors off, and for perplexities up to 5 %, it
is ``undecided``.

Perplexities have a rule of their own because their standard error is that of drawing other text:
it is several percent even where both sides read the same windows.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from lpsteps.report.definitions import Column

Word = Literal["reproduced", "close", "differs", "undecided"]
WORDS: tuple[Word, ...] = ("reproduced", "close", "differs", "undecided")

# Shares of the printed value, in percent.
PERPLEXITY_BOUNDS = (1, 5)
EXACT_BOUND = 1

RULES = (
    "Accuracies, Avg and RP: reproduced within one standard error, close within two.",
    f"Perplexities: reproduced within {PERPLEXITY_BOUNDS[0]} % of the printed value, close within "
    f"{PERPLEXITY_BOUNDS[1]} %.",
    f"Ratios: reproduced when equal in all printed digits, close within {EXACT_BOUND} % of the "
    "printed value.",
    "Layers: reproduced when the set is the same, close when one layer is another.",
    "Half a unit of the last printed digit is added to each bound; what is further off differs.",
    "A score on a limited sample differs when it is more than two standard errors off, and a "
    f"perplexity when it is more than {PERPLEXITY_BOUNDS[1]} % off as well. Else it is undecided. "
    "By chance alone one such score in twenty differs.",
)
"""The rule in words."""

# Differences of decimal numbers that are equal on paper are not quite so in binary.
_SLACK = 1e-9


@dataclass(frozen=True)
class Verdict:
    """A word and what it rests on, in words."""

    word: Word
    rule: str


def last_digit(text: str) -> float:
    """Return the unit of the last digit of a printed number: 0.01 for ``61.24``."""
    exponent = Decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)  # Others are no finite numbers.
    return float(Decimal(1).scaleb(exponent))


def accuracy_error(stderr: float | None, printed: float, n: int) -> float:
    """Return the standard error of measured minus printed accuracy, in percentage points.

    This is the larger of two binomial ones: that of the measured score, and that which the printed
    score has on as many documents. The second is there for scores of 0 and 100 %, whose own is 0.
    No correction for a finite split is made: it is an upper bound.

    Args:
        stderr: Standard error of the measured score; None of a single document.
        printed: Printed score in percent.
        n: Documents of the measured score.
    """
    return max(stderr or 0.0, math.sqrt(max(printed * (100 - printed), 0.0) / n))


def judge_accuracy(difference: float, stderr: float, digit: float, limited: bool) -> Verdict:
    """Judge an accuracy, or a mean that is derived from accuracies.

    Args:
        difference: Measured minus printed, in percentage points.
        stderr: Standard error of the difference.
        digit: Unit of the last printed digit.
        limited: Whether the measured value rests on a part of a split.
    """
    size, half = abs(difference), digit / 2 + _SLACK
    error = f"the standard error of {stderr:.2f}"
    if size <= 2 * stderr + half and limited:
        return Verdict("undecided", f"a limited sample, within twice {error}")
    if size <= stderr + half:
        return Verdict("reproduced", f"within {error}")
    if size <= 2 * stderr + half:
        return Verdict("close", f"within twice {error}")
    return Verdict("differs", f"more than twice {error}")


def judge_perplexity(
    difference: float, printed: float, stderr: float | None, digit: float, limited: bool
) -> Verdict:
    """Judge a perplexity or a mean of perplexities.

    Args:
        difference: Measured minus printed.
        printed: Printed perplexity.
        stderr: Standard error of the measured one; None when not known. It counts on limited
            samples only.
        digit: Unit of the last printed digit.
        limited: Whether the measured value rests on a part of a split.
    """
    size, half = abs(difference), digit / 2 + _SLACK
    narrow, wide = PERPLEXITY_BOUNDS
    if limited and (stderr is None or size <= 2 * stderr + half):
        error = "unknown standard error" if stderr is None else f"standard error of {stderr:.2f}"
        return Verdict("undecided", f"a limited sample, within twice its {error}")
    if size <= printed * wide / 100 + half and limited:
        return Verdict("undecided", f"a limited sample, within {wide} % of the printed value")
    if size <= printed * narrow / 100 + half:
        return Verdict("reproduced", f"within {narrow} % of the printed value")
    if size <= printed * wide / 100 + half:
        return Verdict("close", f"within {wide} % of the printed value")
    return Verdict("differs", f"more than {wide} % of the printed value")


def judge_exact(difference: float, printed: float, digit: float) -> Verdict:
    """Judge a number that no sample moves, such as a ratio of parameters.

    Args:
        difference: Measured minus printed.
        printed: Printed value.
        digit: Unit of its last digit.
    """
    size, half = abs(difference), digit / 2 + _SLACK
    if size <= half:
        return Verdict("reproduced", "equal in all printed digits")
    if size <= abs(printed) * EXACT_BOUND / 100 + half:
        return Verdict("close", f"within {EXACT_BOUND} % of the printed value")
    return Verdict("differs", f"more than {EXACT_BOUND} % of the printed value")


def judge_layers(removed: Collection[int], printed: Collection[int]) -> Verdict:
    """Judge a choice of layers by its set: the order in which they go does not count.

    Args:
        removed: Removed layers.
        printed: As many printed ones.
    """
    other = len(set(removed) - set(printed))
    if other == 0:
        return Verdict("reproduced", "the same set of layers")
    rule = f"{other} of {len(removed)} layers {'are others' if other > 1 else 'is another'}"
    return Verdict("close" if other == 1 < len(removed) else "differs", rule)


def judge(
    column: Column,
    value: float,
    stderr: float | None,
    n: int | None,
    limited: bool,
    printed: float,
    text: str,
) -> tuple[Verdict | None, float | None]:
    """Judge a number by the rule of its column.

    Args:
        column: The column.
        value: Measured value.
        stderr: Its standard error; None when not known.
        n: Documents or windows; None of derived values.
        limited: Whether it rests on a part of a split.
        printed: Printed value.
        text: The same as printed.

    Returns:
        The verdict, None when it needs a standard error that is not known, and the standard error
        of the difference, None where no sample moves the value or the error is not known.
    """
    difference, digit = value - printed, last_digit(text)
    if column.unit == "perplexity":
        return judge_perplexity(difference, printed, stderr, digit, limited), stderr
    if column.higher_is_better is None:
        return judge_exact(difference, printed, digit), None
    error = stderr if n is None else accuracy_error(stderr, printed, n)
    if error is None:
        return None, None
    return judge_accuracy(difference, error, digit, limited), error


# What stands before the reason of a cell that is missing because of another one.
_THROUGH = re.compile(r"^(rests on \S+, which is missing|needs [^:]+): ")


def root_reason(reason: str) -> str:
    """Return why a cell is missing in the end, without the cells that lie between."""
    while (found := _THROUGH.match(reason)) is not None:
        reason = reason[found.end() :]
    return reason


def summarise(cells: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the verdicts, the missing cells by reason, and the comparisons between rows.

    Args:
        cells: Cells of ``tables.json``.

    Returns:
        ``measured`` and ``missing`` cells; of the measured ones ``counterparts``, beside which
        stands a printed value, with a count for each word, those whose printed value is ``noted``
        as odd, and the ``unjudged`` by reason;
        ``printed_only``, missing ones with a printed value; ``reasons`` of all missing ones, the
        most frequent first; ``comparisons`` with the best row and with the one without repair, and
        how many of each are ``told_apart``.
    """
    listed = list(cells)
    measured = [cell for cell in listed if cell["status"] == "measured"]
    missing = [cell for cell in listed if cell["status"] == "missing"]
    beside = [cell for cell in measured if cell["published_text"] is not None]
    judged = [cell for cell in beside if cell["verdict"]]
    words = Counter(cell["verdict"]["word"] for cell in judged)
    return {
        "measured": len(measured),
        "missing": len(missing),
        "counterparts": len(beside),
        **{word: words[word] for word in WORDS},
        "noted": sum(cell["published_note"] is not None for cell in judged),
        "unjudged": _counted([cell["unjudged"] for cell in beside if not cell["verdict"]]),
        "printed_only": sum(cell["published_text"] is not None for cell in missing),
        "reasons": _counted([root_reason(cell["reason"]) for cell in missing]),
        "comparisons": {
            name: _comparisons([cell[name] for cell in measured if cell[name]])
            for name in ("versus_best", "versus_unrepaired")
        },
    }


def _comparisons(made: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {"made": len(made), "told_apart": sum(versus["told_apart"] for versus in made)}


def _counted(reasons: Sequence[str]) -> list[dict[str, Any]]:
    ordered = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    return [{"reason": reason, "count": count} for reason, count in ordered]
