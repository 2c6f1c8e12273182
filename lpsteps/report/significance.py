"""Whether two rows of a table can be told apart on what both were scored on.

All rows are scored on the same documents and windows, so they are compared pairwise on these: what
makes a document hard moves both sides alike and cancels.

* Accuracies: the exact McNemar test (McNemar, Psychometrika 12, 1947), which asks of the documents
  that one row answers and the other does not how likely so uneven a split is by coin tosses.
* Perplexities and means over several tasks: a paired bootstrap within each text and task (Efron and
  Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16). The p-value is twice the share of
  the resamples on the far side of zero.

Two questions are asked of the rows of a column: whether they differ from the best one, and whether
the repaired ones differ from the same cut without repair. The p-values of one question, column and
section are corrected together: those of pairs with the best row by Bonferroni over all pairs of
rows, because the data chose it; the others by Holm's method (Scandinavian Journal of Statistics 6,
1979). Nothing is corrected across columns, sections and tables.

Selections often agree on the layers, so that rows are the same model by other names. Such rows are
one hypothesis, not several: they count once, and none of them is compared with another.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from lpsteps.evaluation.score import Score
from lpsteps.report.bootstrap import FEWEST_WINDOWS, RESAMPLES, SEED, Values, draws, interval
from lpsteps.report.formats import format_interval

LEVEL = 0.05

# Resampled differences up to here are zero: what is left of a sum that cancels on paper.
_ZERO = 1e-9

Test = Literal["mcnemar", "bootstrap"]
Correction = Callable[[Sequence[float]], tuple[int, list[float]]]
"""The size of the family and the corrected p-values."""


@dataclass(frozen=True)
class Entry:
    """What stands behind one number of a column.

    Attributes:
        value: The number.
        scores: Its scores: one, or those it is the mean of.
        weights: Weight of each score in the mean.
        dense: Scores of the dense model on the same tasks where the number is the mean of the
            ratios to them, in percent.
    """

    value: float
    scores: tuple[Score, ...]
    weights: tuple[float, ...]
    dense: tuple[Score, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One row beside another one.

    Attributes:
        other: Name of the other row.
        difference: Own number minus the other's.
        bounds: 95 % interval of the difference, resampled.
        p: Two-sided p-value of there being no difference.
        adjusted: The same after the correction.
        family: How many comparisons it was corrected for.
        test: How it was found.
    """

    other: str
    difference: float
    bounds: tuple[float, float]
    p: float
    adjusted: float
    family: int
    test: Test

    @property
    def told_apart(self) -> bool:
        """Whether the rows differ at the level of 5 %."""
        return self.adjusted <= LEVEL


@lru_cache(maxsize=4096)
def mcnemar(first: int, second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        first: Documents that only the first row answers.
        second: Documents that only the second row answers.
    """
    discordant = first + second
    term = total = 1
    for successes in range(1, min(first, second) + 1):
        term = term * (discordant - successes + 1) // successes
        total += term
    return min(1.0, 2 * total / (1 << discordant))


def bootstrap_p(differences: Values) -> float:
    """Return the two-sided p-value of no difference.

    Args:
        differences: Resampled differences ``[resamples]``.

    Returns:
        Twice the smaller share of resamples on one side of zero, zero itself included on both; the
        observed sample counts as one more resample, so that the value is never 0.
    """
    below = np.count_nonzero(differences <= _ZERO)
    above = np.count_nonzero(differences >= -_ZERO)
    return min(1.0, 2 * (1 + int(min(below, above))) / (1 + len(differences)))


def holm(p_values: Sequence[float]) -> tuple[int, list[float]]:
    """Correct p-values for their number by Holm's method.

    Returns:
        Their number, and the corrected ones in the same order.
    """
    count = len(p_values)
    adjusted = [1.0] * count
    least = 0.0
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        least = max(least, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = least
    return count, adjusted


def all_pairs(p_values: Sequence[float]) -> tuple[int, list[float]]:
    """Correct the p-values of the best of some rows beside each other one.

    Bonferroni over all pairs of rows holds whichever of them the data then pick.

    Returns:
        The number of pairs of rows, and the corrected p-values in the same order.
    """
    pairs = len(p_values) * (len(p_values) + 1) // 2
    return pairs, [min(1.0, pairs * p) for p in p_values]


def case_counts(
    own: Sequence[float], other: Sequence[float], dense: Sequence[float] | None
) -> tuple[int, ...]:
    """Count how often one model loses, equals and gains on another one.

    Args:
        own: 0 or 1 for each document.
        other: The same of another model.
        dense: The same of the dense model; None to leave it out.

    Returns:
        Three counts; with a dense model six, the last three of the documents that it answers.
    """
    codes = 1 + np.array(own, dtype=np.int64) - np.array(other, dtype=np.int64)
    if dense is not None:
        codes += 3 * np.array(dense, dtype=np.int64)
    return tuple(np.bincount(codes, minlength=3 if dense is None else 6).tolist())


@lru_cache(maxsize=64)
def resampled_differences(
    counts: tuple[int, ...], task: int, resamples: int = RESAMPLES, seed: int = SEED
) -> Values:
    """Return how two models differ in accuracy on resamples of the documents of a task.

    Documents count only by who answers them: by one model minus the other, and by the dense one.
    So a resample draws how often each of these cases occurs, which has the same distribution as
    drawing documents and takes far fewer draws.

    Args:
        counts: What :func:`case_counts` returns. With a dense model, the difference is a share of
            its accuracy.
        task: Number of the task; another one has other draws.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Float64 ``[resamples]``, read-only, in percentage points, or in percent of the dense
        accuracy; infinite where the dense model answers nothing in a resample and the others
        differ.
    """
    generator = np.random.default_rng([seed, task])
    total = sum(counts)
    drawn = generator.multinomial(total, np.array(counts) / total, size=resamples)
    gained = drawn[:, 2::3].sum(axis=1) - drawn[:, 0::3].sum(axis=1)
    whole = drawn[:, 3:].sum(axis=1) if len(counts) == 6 else np.full(resamples, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        differences: Values = 100 * gained / whole
    differences[np.isnan(differences)] = 0.0
    differences.setflags(write=False)
    return differences


@lru_cache(maxsize=256)
def _resampled_perplexity(losses: tuple[float, ...], corpus: int, resamples: int) -> Values:
    means = draws(len(losses), corpus, resamples, SEED) @ np.array(losses) / len(losses)
    perplexities: Values = np.exp(means)
    return perplexities


class _Documents(NamedTuple):
    """Two models on the documents of a task: how often each case occurs."""

    counts: tuple[int, ...]
    task: int

    def differences(self, resamples: int) -> Values:
        return resampled_differences(self.counts, self.task, resamples)


class _Windows(NamedTuple):
    """Two models on the windows of a corpus: their losses."""

    own: tuple[float, ...]
    other: tuple[float, ...]
    corpus: int

    def differences(self, resamples: int) -> Values:
        own, other = (_resampled_perplexity(one, self.corpus, resamples) for one in self[:2])
        difference: Values = own - other
        return difference


# Tables share rows, and so the comparisons of these.
@lru_cache(maxsize=16_384)
def _resampled(
    pairs: tuple[_Documents | _Windows, ...], weights: tuple[float, ...], resamples: int
) -> tuple[tuple[float, float], float] | None:
    """Return the interval of a mean difference and its p-value; None where it has no end."""
    with np.errstate(invalid="ignore"):
        differences: Values = np.average(
            [pair.differences(resamples) for pair in pairs], axis=0, weights=weights
        )
    # Infinite to both sides, in two tasks: on no side.
    differences[np.isnan(differences)] = 0.0
    bounds = interval(differences)
    return None if bounds is None else (bounds, bootstrap_p(differences))


@lru_cache(maxsize=1024)
def _right_or_wrong(values: tuple[float, ...]) -> bool:
    return {0, 1}.issuperset(values)


def _comparable(score: Score, *beside: Score) -> bool:
    """Whether scores are of the same documents, each right or wrong, or of enough windows.

    The same ones in the same way: the numbers of windows say nothing about their length, nor the
    settings of a suite whether all of its rows were made with them.
    """
    if any(
        one.samples.ids != score.samples.ids or one.settings != score.settings for one in beside
    ):
        return False
    if score.unit == "perplexity":
        return score.n >= FEWEST_WINDOWS
    return all(_right_or_wrong(one.samples.values) for one in (score, *beside))


def compare(own: Entry, other: Entry, name: str) -> Finding | None:
    """Compare two numbers of a column, not corrected for other comparisons.

    Args:
        own: One number.
        other: Another one of the same tasks or texts with the same weights.
        name: Name of the other row.

    Returns:
        None where the rows were scored on different documents or windows or in different ways, on
        too few windows, or where the dense model answers so little that the interval of the ratio
        to it has no end.
    """
    pairs: list[_Documents | _Windows] = []
    for index, (score, beside) in enumerate(zip(own.scores, other.scores, strict=True)):
        dense = own.dense[index : index + 1]
        if not _comparable(score, beside, *dense):
            return None
        mine, theirs = score.samples.values, beside.samples.values
        # Equal numbers for equal benchmarks, so that columns share the draws.
        number = zlib.crc32(score.benchmark.encode())
        if score.unit == "perplexity":
            pairs.append(_Windows(mine, theirs, number))
        else:
            answers = dense[0].samples.values if dense else None
            pairs.append(_Documents(case_counts(mine, theirs, answers), number))
    found = _resampled(tuple(pairs), own.weights, RESAMPLES)
    if found is None:
        return None
    bounds, p = found
    test: Test = "bootstrap"
    if len(own.scores) == 1 and own.scores[0].unit == "percent":
        # The ratio to one dense score orders two rows as the scores themselves do.
        test = "mcnemar"
        outcomes = Counter(
            zip(own.scores[0].samples.values, other.scores[0].samples.values, strict=True)
        )
        p = mcnemar(outcomes[1, 0], outcomes[0, 1])
    return Finding(
        other=name,
        difference=own.value - other.value,
        bounds=bounds,
        p=p,
        adjusted=p,
        family=1,
        test=test,
    )


def compare_column(
    entries: Mapping[str, Entry],
    contenders: Collection[str],
    unrepaired: Mapping[str, str],
    twins: Mapping[str, str],
    higher_is_better: bool,
) -> tuple[dict[str, Finding], dict[str, Finding]]:
    """Compare the rows of a column with the best one and with those without repair.

    Args:
        entries: What stands behind the number of each row that has one, in display order.
        contenders: Rows that may be the best and are compared with it.
        unrepaired: Per repaired row, the row with the same cut and no repair.
        twins: Per row that is the same model as one above, the first such row.
        higher_is_better: Which end is the best; of equal numbers it is the first row.

    Returns:
        By row, the findings beside the best row, and beside the row without repair. The former are
        corrected for all pairs of rows, because the data chose one of each pair; the latter, whose
        pairs are known beforehand, for their own number. Rows with the same samples of the same
        model count once.
    """
    taking_part = {name: entry for name, entry in entries.items() if name in contenders}
    best: dict[str, Finding] = {}
    if taking_part:
        sign = 1 if higher_is_better else -1
        winner = max(taking_part, key=lambda name: sign * taking_part[name].value)
        pairs = {name: (entry, winner) for name, entry in taking_part.items()}
        best = _corrected(pairs, entries, twins, all_pairs)
    cuts = {
        name: (entry, unrepaired[name])
        for name, entry in entries.items()
        if unrepaired.get(name) in entries
    }
    return best, _corrected(cuts, entries, twins, holm)


def _corrected(
    pairs: Mapping[str, tuple[Entry, str]],
    entries: Mapping[str, Entry],
    twins: Mapping[str, str],
    correct: Correction,
) -> dict[str, Finding]:
    """Compare pairs of rows and correct the p-values together; twins share one comparison."""
    # With the samples, in case that a program did not repeat itself.
    models = {
        name: (twins.get(name, name), tuple(score.samples for score in entry.scores))
        for name, entry in entries.items()
    }
    different = {name: pair for name, pair in pairs.items() if models[name] != models[pair[1]]}
    findings: dict[Hashable, Finding | None] = {}
    for name, (entry, other) in different.items():
        if models[name] not in findings:
            findings[models[name]] = compare(entry, entries[other], other)
    # What cannot be compared is counted, or the scores would choose how many comparisons there are.
    family, adjusted = correct([1.0 if found is None else found.p for found in findings.values()])
    corrected = dict(zip(findings, adjusted, strict=True))
    return {
        name: replace(found, adjusted=corrected[models[name]], family=family)
        for name in different
        if (found := findings[models[name]]) is not None
    }


def describe(finding: Finding) -> str:
    """Return ``-1.56 [-4.69, 1.56], p = 0.453``, and the corrected p-value where it differs."""
    words = f"{finding.difference:+.2f} {format_interval(finding.bounds, 2)}, {_p(finding.p)}"
    if finding.family == 1:
        return words
    return f"{words}; corrected for {finding.family} comparisons {_p(finding.adjusted)}"


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
