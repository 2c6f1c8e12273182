"""What a cell of a table is: a value or the reason why there is none, and where it comes from.

A cell is a number only when everything it rests on is there and has no known problem; otherwise it
is missing and says why. Rounding happens in ``text`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lpsteps.report.significance import Test
from lpsteps.report.verdicts import Verdict

MISSING_TEXT = "\N{EN DASH}"


@dataclass(frozen=True)
class Source:
    """Where a value stands: file, JSON pointer (``row=N`` in a CSV file), hash of the file."""

    path: str
    pointer: str
    sha256: str


@dataclass(frozen=True)
class Contrast:
    """A value minus that of another row, the 95 % interval of the difference, both as text."""

    value: float
    interval: list[float] | None
    text: str


@dataclass(frozen=True)
class Comparison:
    """How a row differs from another one, resampled together.

    Attributes:
        cell: Id of the other row's cell.
        label: What the other row is.
        share: Difference of the shares closed, in percentage points.
        log_perplexity: Difference of the log-perplexities, as a mean over the corpora.
    """

    cell: str
    label: str
    share: Contrast
    log_perplexity: Contrast


@dataclass(frozen=True)
class Versus:
    """A number beside that of another row, on the same documents or windows.

    Attributes:
        cell: Id of the other row's cell.
        label: What the other row is.
        difference: Own value minus the other's.
        interval: 95 % interval of the difference.
        p: Two-sided p-value of no difference.
        adjusted: The same, corrected for all comparisons of the kind in its column and section.
        family: How many these are.
        test: How ``p`` was found.
        told_apart: Whether the rows differ at the 5 % level after the correction.
        text: Difference, interval and p-values as displayed.
    """

    cell: str
    label: str
    difference: float
    interval: list[float]
    p: float
    adjusted: float
    family: int
    test: Test
    told_apart: bool
    text: str


@dataclass(frozen=True)
class Cell:
    """One cell of one table.

    Attributes:
        id: ``table/model/n<removed layers>/row/column``; the same from run to run.
        variant: Folder of the variant, None for printed cells and undefined variants.
        value: Exact value: a list of layers in removal order in columns of layers, a whole number
            in columns of costs and counts, true or false where the text is a word, words in columns
            of text.
        text: The value as displayed.
        stderr: Standard error in the unit of the value.
        interval: 95 % interval of the value, lower and upper bound, where it was resampled.
        interval_text: The interval as displayed.
        comparisons: How the value differs from those of other rows.
        n: Documents or windows, None for derived values.
        total: Documents or windows of the split, where known.
        limited: Whether the value rests on fewer than all documents.
        source: Where the value stands, None for derived values.
        parts: Ids of the cells that a derived value was computed from.
        benchmarks_used: How many benchmarks a derived value is over.
        benchmarks_wanted: How many the paper takes it over.
        published: The printed number for the same configuration, layers or words in such columns.
        difference: Value minus published. In columns of layers: how many of the removed layers
            the paper keeps.
        difference_stderr: Standard error of the difference, where a sample moves the value.
        verdict: Whether the value reproduces the printed one.
        unjudged: Why there is no verdict on a measured value beside a printed one.
        versus_best: How the value differs from the best one of its column and section.
        versus_unrepaired: How it differs from that of the same cut without repair.
        reason: Why the cell is missing.
        note: What else a reader of the number has to know.
        mark: ``best`` or ``second`` among the measured pruned rows of the section.
    """

    id: str
    table: str
    row: str
    column: str
    model: str
    n_pruned: int
    status: Literal["measured", "published", "missing"]
    variant: str | None = None
    value: float | int | bool | str | list[int] | None = None
    text: str = MISSING_TEXT
    stderr: float | None = None
    interval: list[float] | None = None
    interval_text: str | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    n: int | None = None
    total: int | None = None
    limited: bool = False
    source: Source | None = None
    parts: list[str] = field(default_factory=list)
    benchmarks_used: int | None = None
    benchmarks_wanted: int | None = None
    published: float | str | list[int] | None = None
    published_text: str | None = None
    published_note: str | None = None
    difference: float | int | None = None
    difference_stderr: float | None = None
    verdict: Verdict | None = None
    unjudged: str | None = None
    versus_best: Versus | None = None
    versus_unrepaired: Versus | None = None
    reason: str | None = None
    note: str | None = None
    mark: Literal["best", "second"] | None = None
