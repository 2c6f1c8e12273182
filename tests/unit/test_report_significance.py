"""Tests between rows, against enumerations and plain loops."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_example as example
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import SMALL, variant_folder

from lpsteps.artifacts import write_json
from lpsteps.evaluation.score import Score
from lpsteps.report import significance
from lpsteps.report.bootstrap import RESAMPLES, draws
from lpsteps.report.definitions import TableDefinition, load_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.payload import build_payload
from lpsteps.report.significance import (
    FEWEST_WINDOWS,
    Entry,
    Finding,
    bootstrap_p,
    case_counts,
    compare,
    compare_column,
    describe,
    holm,
    mcnemar,
    resampled_differences,
)

bits = st.lists(st.integers(0, 1), min_size=1, max_size=12)


def score(values: Sequence[float], benchmark: str = "task", **changes: Any) -> Score:
    """Return a score with these samples."""
    content = {
        "model": "m",
        "variant": "v",
        "benchmark": benchmark,
        "protocol": "harness",
        "metric": "acc",
        "value": 100 * math.fsum(values) / len(values),
        "stderr": 1.0,
        "n": len(values),
        "limited": False,
        "total": len(values),
        "unit": "percent",
        "settings": {},
        "samples": {"ids": list(range(len(values))), "values": list(values)},
    }
    return Score.model_validate(content | changes)


def perplexity(losses: Sequence[float], benchmark: str = "text") -> Score:
    value = math.exp(math.fsum(losses) / len(losses))
    return score(losses, benchmark, unit="perplexity", protocol="perplexity", value=value)


def entry(*scores: Score, dense: Sequence[Score] = (), weights: Sequence[float] = ()) -> Entry:
    if dense:
        ratios = [
            100 * one.value / (whole.value or 1) for one, whole in zip(scores, dense, strict=True)
        ]
        value = sum(ratios) / len(ratios)
    else:
        value = float(np.average([s.value for s in scores], weights=weights or None))
    return Entry(value, scores, tuple(weights or [1] * len(scores)), tuple(dense))


@pytest.mark.parametrize(
    ("first", "second"), [(n, k) for n in range(7) for k in range(7) if n + k <= 9]
)
def test_mcnemar_is_the_share_of_coin_tosses_as_uneven(first: int, second: int) -> None:
    """Every document on which the rows differ goes either way with equal chance."""
    tosses = list(itertools.product((0, 1), repeat=first + second))
    uneven = sum(abs(2 * sum(toss) - len(toss)) >= abs(first - second) for toss in tosses)
    assert mcnemar(first, second) == pytest.approx(uneven / len(tosses), rel=1e-12)


@pytest.mark.parametrize(("first", "second"), [(400, 460), (1500, 1500), (0, 900), (2400, 2700)])
def test_mcnemar_of_many_documents(first: int, second: int) -> None:
    expected = scipy.stats.binomtest(first, first + second).pvalue
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_a_probability_and_symmetric(first: int, second: int) -> None:
    assert 0 < mcnemar(first, second) <= 1
    assert mcnemar(first, second) == mcnemar(second, first)
    assert mcnemar(first, first) == 1


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    """Step down from the smallest; the first that is not below its share of the level ends it."""
    count, adjusted = holm(p_values)
    assert count == len(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set[int]()
        for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
            if p_values[index] * (count - rank) > level:
                break
            rejected.add(index)
        assert {index for index in range(count) if adjusted[index] <= level} == rejected
    assert all(raw <= corrected <= 1 for raw, corrected in zip(p_values, adjusted, strict=True))


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == (3, pytest.approx([0.06, 0.03, 0.06]))
    assert holm([]) == (0, [])


def test_many_rows_can_be_told_from_the_best() -> None:
    """The least p-value that resamples can give is small enough for all pairs of 33 rows."""
    rng = np.random.default_rng(6)
    easy = rng.normal(3, 0.1, 12).round(6).tolist()
    rows = {"good": entry(perplexity(easy, "novels"))}
    for row in range(32):
        losses = [loss + 1 + 0.01 * row for loss in easy]
        rows[f"bad {row}"] = entry(perplexity(losses, "novels"))
    best, _ = compare_column(rows, list(rows), {}, {}, False)
    assert len(best) == 32 and all(found.told_apart for found in best.values())


def test_the_best_of_equal_rows_is_rarely_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen from the samples that it is compared on, so its own pairs are too few to count."""
    # Of intervals, which are not looked at here: the p-values are exact.
    monkeypatch.setattr(significance, "RESAMPLES", 100)
    rng = np.random.default_rng(5)
    columns, told, too_often = 200, 0, 0
    for _ in range(columns):
        rows = {
            f"r{row}": entry(score(answers))
            for row, answers in enumerate(rng.integers(0, 2, (12, 200)).tolist())
        }
        best, _ = compare_column(rows, list(rows), {}, {}, True)
        told += any(found.told_apart for found in best.values())
        too_often += min(found.p for found in best.values()) * len(best) <= 0.05
    assert told <= 0.05 * columns < too_often


def test_the_bootstrap_p_value_counts_the_far_side_and_the_sample_itself() -> None:
    assert bootstrap_p(np.array([1.0] * 97 + [-1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert bootstrap_p(np.array([-1.0] * 99)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.zeros(99)) == 1
    # What a sum leaves of zero is zero.
    assert bootstrap_p(np.array([1e-13, -1e-13] * 50)) == 1


def test_cases_are_drawn_as_documents_are() -> None:
    """Against drawing documents one by one: the same mean and spread."""
    rng = np.random.default_rng(3)
    own, other, dense = (rng.integers(0, 2, 40).tolist() for _ in range(3))
    picked = rng.integers(0, 40, size=(20_000, 40))
    a, b, whole = (np.array(row)[picked].sum(axis=1) for row in (own, other, dense))
    for reference, plain in ((None, 100 * (a - b) / 40), (dense, 100 * (a - b) / whole)):
        counts = case_counts(own, other, reference)
        found = resampled_differences(counts, task=1, resamples=20_000)
        assert found.mean() == pytest.approx(plain.mean(), abs=0.4)
        assert found.std() == pytest.approx(plain.std(), rel=0.03)
        for share in (0.025, 0.5, 0.975):
            assert np.quantile(found, share) == pytest.approx(np.quantile(plain, share), abs=4)


@given(bits, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_swapping_the_rows_turns_the_differences(own: list[int], random: Any) -> None:
    other = [random.randint(0, 1) for _ in own]
    there, back = (entry(score(values)) for values in (own, other))
    forth, reverse = compare(there, back, "b"), compare(back, there, "a")
    assert forth is not None and reverse is not None
    assert forth.difference == -reverse.difference
    assert forth.p == reverse.p
    assert 0 < forth.p <= 1 and forth.test == "mcnemar"


@given(bits)
@settings(max_examples=20)
def test_identical_rows_cannot_be_told_apart(values: list[int]) -> None:
    row = score(values)
    for same in (entry(row), entry(row, score(values, "other"))):
        found = compare(same, same, "itself")
        assert found is not None and not found.told_apart
        assert (found.difference, found.bounds, found.p) == (0, (0, 0), 1)


def test_perplexities_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(3, 0.5, (2, 2, 9))
    losses[1] = losses[0] + rng.normal(0.02, 0.02, (2, 9))
    rows = [
        entry(perplexity(text[0], "one"), perplexity(text[1], "two"))
        for text in losses.round(6).tolist()
    ]
    found = compare(*rows, "second")
    assert found is not None and found.test == "bootstrap"
    assert found.difference == rows[0].value - rows[1].value
    # One resample after the other, on the draws that the module documents.
    counts = [draws(9, zlib.crc32(name), RESAMPLES, 0) for name in (b"one", b"two")]
    plain = []
    for resample in range(RESAMPLES):
        means = np.zeros(2)
        for text in range(2):
            for row in range(2):
                total = sum(
                    int(times) * loss
                    for times, loss in zip(
                        counts[text][resample], losses[row][text].round(6), strict=True
                    )
                )
                means[row] += math.exp(total / 9) / 2
        plain.append(means[0] - means[1])
    assert found.bounds == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=2e-6)
    below, above = sum(d <= 0 for d in plain), sum(d >= 0 for d in plain)
    assert found.p == pytest.approx(min(1, 2 * (1 + min(below, above)) / (RESAMPLES + 1)))


def test_means_weigh_their_tasks() -> None:
    good, bad = [1] * 30, [1] * 10 + [0] * 20
    rows = [
        entry(score(good, "a"), score(bad, "b"), weights=(3, 1)),
        entry(score(bad, "a"), score(good, "b"), weights=(3, 1)),
    ]
    found = compare(*rows, "other")
    assert found is not None and found.test == "bootstrap"
    assert found.difference == pytest.approx((3 - 1) / 4 * 100 * 2 / 3)
    assert found.bounds[0] < found.difference < found.bounds[1]
    even = [Entry(50, row.scores, (1, 1)) for row in rows]
    unweighted = compare(*even, "other")
    assert unweighted is not None and unweighted.bounds[0] < 0 < unweighted.bounds[1]


def test_retained_performance_resamples_the_dense_model_along() -> None:
    """All that the dense model answers, the row answers: no resample changes the ratio."""
    dense = [1] * 20 + [0] * 20
    rows = [
        entry(score(dense), score(dense, "b"), dense=[score(dense), score(dense, "b")]),
        entry(score([0] * 40), score([0] * 40, "b"), dense=[score(dense), score(dense, "b")]),
    ]
    found = compare(*rows, "nothing")
    assert found is not None
    assert found.difference == found.bounds[0] == found.bounds[1] == 100
    assert found.p == pytest.approx(2 / (RESAMPLES + 1)) and found.test == "bootstrap"
    plain = compare(entry(*rows[0].scores), entry(*rows[1].scores), "nothing")
    assert plain is not None and plain.bounds[0] < plain.bounds[1]


def test_resamples_without_an_answer_of_the_dense_model_stand_at_the_ends() -> None:
    """Plainly: no ratio there, but a side on which the difference lies."""

    def rows(answers: int) -> list[Entry]:
        dense = [score([1] * answers + [0] * (20 - answers), "a"), score([1] * 20, "b")]
        good, bad = [1] * 15 + [0] * 5, [0] * 5 + [1] * 5 + [0] * 10
        return [
            entry(score(row, "a"), score([1] * 12 + [0] * 8, "b"), dense=dense)
            for row in (good, bad)
        ]

    found = compare(*rows(4), "bad")
    back = compare(*rows(4)[::-1], "good")
    assert found is not None and back is not None
    assert math.isfinite(found.bounds[1]) and found.bounds[0] > 0
    assert found.told_apart and back.told_apart
    assert found.p == back.p and back.bounds == (-found.bounds[1], -found.bounds[0])
    counts = case_counts(
        rows(4)[0].scores[0].samples.values,
        rows(4)[1].scores[0].samples.values,
        rows(4)[0].dense[0].samples.values,
    )
    empty = resampled_differences(counts, zlib.crc32(b"a"))
    assert 0 < np.isinf(empty).sum() < 0.025 * RESAMPLES  # It is 0.8 to the 20th, 1.2 %.
    # With two answers of twenty, an eighth of the resamples has none: the interval has no end.
    assert compare(*rows(2), "bad") is None
    # Infinite to either side, in two tasks.
    dense = [score([1] + [0] * 19, "a"), score([1] + [0] * 19, "b")]
    ones, none = [1] * 20, [0] * 20
    torn = [
        entry(score(ones, "a"), score(none, "b"), dense=dense),
        entry(score(none, "a"), score(ones, "b"), dense=dense),
    ]
    assert compare(*torn, "other") is None


def test_what_is_not_compared() -> None:
    right = [1, 0, 1]
    moved = {"ids": [1, 2, 3], "values": right}
    assert compare(entry(score(right)), entry(score(right, samples=moved)), "b") is None
    halved = score(right, settings={"dtype": "bfloat16"})
    assert compare(entry(score(right)), entry(halved), "b") is None
    assert compare(entry(score([0.5, 1, 0])), entry(score(right)), "b") is None
    few = [3.0 + 0.1 * window for window in range(FEWEST_WINDOWS)]
    assert compare(entry(perplexity(few)), entry(perplexity(few)), "b") is not None
    assert compare(entry(perplexity(few[:-1])), entry(perplexity(few[:-1])), "b") is None


def test_a_column_has_one_best_and_two_families() -> None:
    rows = {
        "bare": entry(score([1] * 10 + [0] * 30)),
        "good": entry(score([1] * 30 + [0] * 10)),
        "also": entry(score([1] * 29 + [0] * 11)),
        "larger": entry(score([1] * 40)),
    }
    best, repair = compare_column(
        rows, ["bare", "good", "also"], {"good": "bare", "larger": "bare", "x": "bare"}, {}, True
    )
    assert {name: found.other for name, found in best.items()} == {"bare": "good", "also": "good"}
    assert best["bare"].p == pytest.approx(2 / 2**20)
    assert best["bare"].adjusted == pytest.approx(3 * 2 / 2**20)
    assert best["bare"].told_apart and not best["also"].told_apart
    assert {found.family for found in best.values()} == {3}
    assert set(repair) == {"good", "larger"} and repair["larger"].difference == 75
    lowest, _ = compare_column(rows, list(rows), {}, {}, False)
    assert {found.other for found in lowest.values()} == {"bare"}
    assert compare_column({}, [], {}, {}, True) == ({}, {})


def test_comparisons_that_cannot_be_made_count_among_the_others() -> None:
    """Or what the scores happen to be would choose how many they are corrected for."""
    rows = {
        "bare": entry(score([1] * 10 + [0] * 30)),
        "good": entry(score([1] * 30 + [0] * 10)),
        "elsewhere": entry(score([1] * 20 + [0] * 20, settings={"shots": 5})),
    }
    unrepaired = {"good": "bare", "elsewhere": "bare"}
    best, repair = compare_column(rows, list(rows), unrepaired, {}, True)
    assert list(best) == ["bare"] and best["bare"].family == 3
    assert list(repair) == ["good"] and repair["good"].family == 2
    assert repair["good"].adjusted == pytest.approx(2 * repair["good"].p)


def test_rows_of_one_model_count_once() -> None:
    """Two selections that agree on the layers give one hypothesis, not two."""
    bare, good = [1] * 10 + [0] * 30, [1] * 30 + [0] * 10
    rows = {
        "bare": entry(score(bare)),
        "bare too": entry(score(bare)),
        "good": entry(score(good)),
        "good too": entry(score(good)),
        "other": entry(score([1] * 20 + [0] * 20)),
    }
    unrepaired = {"good": "bare", "good too": "bare", "other": "bare"}
    twins = {"bare too": "bare", "good too": "good"}
    best, repair = compare_column(rows, list(rows), unrepaired, twins, True)
    assert list(best) == ["bare", "bare too", "other"]
    assert {found.family for found in best.values()} == {3}
    assert best["bare"] == best["bare too"]
    assert best["bare"].adjusted == pytest.approx(3 * 2 / 2**20)
    assert list(repair) == ["good", "good too", "other"]
    assert {found.family for found in repair.values()} == {2}
    assert repair["good"] == repair["good too"]
    # By other names alone they would be taken for models of their own.
    strangers, _ = compare_column(rows, list(rows), unrepaired, {}, True)
    assert {found.family for found in strangers.values()} == {10} and "good too" in strangers
    # Equal by configuration, but scored differently: then they are not the same.
    rows["good too"] = entry(score([1] * 29 + [0] * 11))
    unequal, _ = compare_column(rows, list(rows), unrepaired, twins, True)
    assert {found.family for found in unequal.values()} == {6} and "good too" in unequal


def test_a_finding_in_words() -> None:
    found = Finding("x", -1.5625, (-4.6875, 1.5625), 0.4531, 1.0, 6, "mcnemar")
    assert describe(found) == (
        "-1.56 [-4.69, 1.56], p = 0.453; corrected for 6 comparisons p = 1.000"
    )
    alone = Finding("x", 2.0, (1.0, 3.0), 0.00099, 0.00099, 1, "bootstrap")
    assert describe(alone) == "+2.00 [1.00, 3.00], p < 0.001"


SHIPPED = ("table01", "table06")
WEIGHTED = TableDefinition.model_validate(
    {
        "id": "weighted",
        "title": "A mean over documents",
        "caption": "",
        "columns": [
            {"id": "piqa", "title": "PIQA", "unit": "percent"},
            {"id": "copa", "title": "COPA", "unit": "percent"},
            {
                "id": "pooled",
                "title": "Pooled",
                "kind": "weighted_mean",
                "unit": "percent",
                "of": ["piqa", "copa"],
            },
        ],
        "rows": [
            {"id": "d", "label": "+ d", "selection": "shortgpt", "recovery": "channel-scale"},
            {"id": "p", "label": "+ P", "selection": "shortgpt", "recovery": "linearpatch"},
            {"id": "bare", "label": "Bare", "selection": "sleb"},
            {"id": "scaled", "label": "+ d", "selection": "sleb", "recovery": "channel-scale"},
        ],
    }
)


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The made-up run on SmolLM2; ARC-e is set so that the outcome is known."""
    folder = tmp_path_factory.mktemp("significance")
    levels = {SMALL: [5]}
    paths = example.write_run(folder, levels)
    for selection, recovery, right in (
        ("sleb", "none", 20),
        ("llm-streamline", "none", 22),
        ("llm-streamline", "linearpatch", 60),
    ):
        path = folder / variant_folder(SMALL, selection, 5, recovery) / "scores/arc_easy.json"
        content = json.loads(path.read_text())
        content["value"] = 100 * right / 64
        content["samples"]["values"] = [1] * right + [0] * (64 - right)
        write_json(path, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        spec = parse_build_spec(
            example.spec(levels)
            | {"tables": {table: {SMALL: [5]} for table in (*SHIPPED, WEIGHTED.id)}}
        )
        files = [Path(path) for listed in paths.values() for path in listed]
        evidence = gather_evidence(spec, files, {})
        definitions = [load_table(name, example.ROOT / "reports/tables") for name in SHIPPED]
        definitions.append(WEIGHTED)
        return {"folder": folder} | build_payload(spec, definitions, [], {}, evidence)


def test_cells_say_how_they_differ(payload: dict[str, Any]) -> None:
    cells = {cell["id"]: cell for cell in payload["cells"]}
    row = f"table01/{SMALL}/n5"
    best = f"{row}/llm-streamline+linearpatch/arc_easy"
    assert cells[best]["mark"] == "best" and cells[best]["versus_best"] is None
    beside = cells[f"{row}/sleb/arc_easy"]["versus_best"]
    assert beside["cell"] == best and beside["label"] == "LinearPatch [L]"
    assert beside["difference"] == pytest.approx(-62.5)
    assert beside["p"] == pytest.approx(2 / 2**40) and beside["test"] == "mcnemar"
    others = [
        name
        for name in ("sleb", "shortgpt", "llm-streamline", "shortgpt+linearpatch")
        if cells[f"{row}/{name}/arc_easy"]["status"] == "measured"
    ]
    # All pairs of five rows.
    assert len(others) == 4 and beside["family"] == 10 and beside["told_apart"]
    repaired = cells[best]["versus_unrepaired"]
    # ShortGPT removes the same layers and stands first.
    assert repaired["cell"] == f"{row}/shortgpt/arc_easy"
    assert repaired["difference"] == cells[best]["value"] - cells[repaired["cell"]]["value"]
    assert cells[f"{row}/sleb/arc_easy"]["versus_unrepaired"] is None
    for cell in payload["cells"]:
        if cell["status"] == "missing" or cell["n_pruned"] == 0 or cell["column"] == "ratio":
            assert cell["versus_best"] is cell["versus_unrepaired"] is None


def test_derived_columns_are_resampled(payload: dict[str, Any]) -> None:
    cells = {cell["id"]: cell for cell in payload["cells"]}
    for column in ("embedded_ppl_avg", "qa_avg", "qa_rp"):
        patched = cells[f"table06/{SMALL}/n5/linearpatch/{column}"]["versus_unrepaired"]
        assert patched["test"] == "bootstrap"
        assert patched["cell"] == f"table06/{SMALL}/n5/vanilla/{column}"
        assert patched["label"] == "Vanilla" and patched["family"] == 3
        assert patched["interval"][0] < patched["interval"][1]


def test_no_repair_is_not_stood_in_for_by_another_repair(payload: dict[str, Any]) -> None:
    """Rows + d and + P have the same cut, which the table does not show without repair."""
    repaired = [c for c in payload["cells"] if c["table"] == "weighted" and c["row"] in ("d", "p")]
    assert {cell["status"] for cell in repaired} == {"measured"} and len(repaired) == 6
    assert any(cell["versus_best"] for cell in repaired)
    assert not any(cell["versus_unrepaired"] for cell in repaired)


def test_means_over_documents_are_weighted_by_the_splits(payload: dict[str, Any]) -> None:
    cells = {cell["id"]: cell for cell in payload["cells"]}
    place = f"weighted/{SMALL}/n5"
    scores = {
        (row, task): json.loads(
            (
                payload["folder"]
                / variant_folder(SMALL, "sleb", 5, recovery)
                / f"scores/{task}.json"
            ).read_text()
        )
        for row, recovery in (("scaled", "channel-scale"), ("bare", "none"))
        for task in ("piqa", "copa")
    }
    ends = [
        Entry(
            cells[f"{place}/{row}/pooled"]["value"],
            tuple(Score.model_validate(scores[row, task]) for task in ("piqa", "copa")),
            (1838, 100),
        )
        for row in ("scaled", "bare")
    ]
    expected = compare(*ends, "bare")
    found = cells[f"{place}/scaled/pooled"]["versus_unrepaired"]
    assert expected is not None and expected.bounds[0] < expected.bounds[1]
    assert found["interval"] == list(expected.bounds) and found["p"] == expected.p


def test_the_summary_says_how_many_comparisons_a_table_holds(payload: dict[str, Any]) -> None:
    for table in payload["tables"]:
        for name in ("versus_best", "versus_unrepaired"):
            found = [c[name] for c in payload["cells"] if c["table"] == table["id"] and c[name]]
            told = sum(versus["told_apart"] for versus in found)
            assert table["summary"]["comparisons"][name] == {"made": len(found), "told_apart": told}
            assert found
