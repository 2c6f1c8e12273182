"""Metrics that read statistics or nothing, against slow loops over the same definitions."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lpsteps.errors import LpstepsError
from lpsteps.methods import method_names, selection_method
from lpsteps.selection import (
    angular_distance,
    block_influence,
    contiguous_cosine,
    last_layers,
    listed_layers,
    random_layers,
    random_window,
    token_axis_cosine,
    uniform,
)
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import Kind, choose
from lpsteps.statistics import Statistics
from lpsteps.validation import validated


def _statistics(
    cosines: np.ndarray[Any, Any],
    last_token: np.ndarray[Any, Any] | None = None,
    token_axis: np.ndarray[Any, Any] | None = None,
) -> Statistics:
    """Statistics with given cosines ``[samples, boundaries, boundaries]``."""
    samples, boundaries, _ = cosines.shape
    return Statistics(
        basis_name="sylvester-4",
        model="tiny",
        tokens=np.full(samples, 8, dtype=np.int32),
        means={"identity": np.ones((samples, boundaries, 4))},
        pairs=cosines,
        last_token_pairs=last_token,
        token_axis_pairs=token_axis,
    )


@st.composite
def random_statistics(draw: st.DrawFn) -> Statistics:
    boundaries = draw(st.integers(3, 9))
    samples = draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Coarse values, exact in binary, so that ties between candidates are common and exact.
    cosines = generator.integers(-4, 5, size=(3, samples, boundaries, boundaries)) / 4
    return _statistics(*(np.triu(cosines) + np.triu(cosines, 1).swapaxes(2, 3)))


@given(random_statistics(), st.integers(0, 2), st.integers(0, 2), st.data())
def test_block_influence(
    statistics: Statistics, first: int, last: int, data: st.DataObject
) -> None:
    n_layers = statistics.n_layers
    allowed = range(first, n_layers - last)
    scores = {}
    for layer in range(n_layers):
        total = 0.0
        for pairs in statistics.pairs:
            total += pairs[layer, layer + 1]
        scores[layer] = 1 - total / len(statistics.pairs)
    ranking = block_influence.rank(
        SelectionContext(n_layers, (1,), statistics=statistics),
        block_influence.Params(exempt_first=first, exempt_last=last),
    )
    assert ranking.kind == block_influence.KIND
    assert [row.layers for row in ranking.candidates] == [(layer,) for layer in range(n_layers)]
    np.testing.assert_allclose(
        [row.score for row in ranking.candidates], list(scores.values()), atol=1e-15
    )
    assert [row.eligible for row in ranking.candidates] == [
        layer in allowed for layer in range(n_layers)
    ]
    if allowed:
        n = data.draw(st.integers(1, len(allowed)))
        rounded = sorted(allowed, key=lambda layer: (round(scores[layer], 9), layer))
        assert choose(ranking, n) == tuple(rounded[:n])


@given(random_statistics(), st.integers(0, 2), st.integers(0, 2), st.data())
def test_contiguous_cosine(
    statistics: Statistics, first: int, last: int, data: st.DataObject
) -> None:
    n_layers = statistics.n_layers
    n = data.draw(st.integers(1, n_layers - 1))
    best_start, best = None, -1.0
    scores = []
    for start in range(n_layers - n + 1):
        total = 0.0
        for pairs in statistics.pairs:
            total += (1 + pairs[start, start + n]) / 2
        scores.append(total / len(statistics.pairs))
        inside = start >= first and start + n <= n_layers - last
        if inside and scores[-1] > best + 1e-12:
            best_start, best = start, scores[-1]
    ranking = contiguous_cosine.rank(
        SelectionContext(n_layers, tuple(range(1, n_layers)), statistics=statistics),
        contiguous_cosine.Params(exempt_first=first, exempt_last=last),
    )
    assert ranking.kind == contiguous_cosine.KIND
    rows = [row for row in ranking.candidates if row.n == n]
    assert [row.layers for row in rows] == [
        tuple(range(start, start + n)) for start in range(n_layers - n + 1)
    ]
    np.testing.assert_allclose([row.score for row in rows], scores, atol=1e-15)
    if best_start is None:
        with pytest.raises(LpstepsError):
            choose(ranking, n)
    else:
        assert choose(ranking, n) == tuple(range(best_start, best_start + n))


@given(random_statistics(), st.integers(0, 2), st.integers(0, 2), st.data())
def test_angular_distance(
    statistics: Statistics, first: int, last: int, data: st.DataObject
) -> None:
    n_layers = statistics.n_layers
    n = data.draw(st.integers(1, n_layers - 1))
    assert statistics.last_token_pairs is not None
    scores = []
    for start in range(n_layers - n + 1):
        angles = [math.acos(sample[start, start + n]) for sample in statistics.last_token_pairs]
        scores.append(sum(angles) / len(angles) / math.pi)
    ranking = angular_distance.rank(
        SelectionContext(n_layers, tuple(range(1, n_layers)), statistics=statistics),
        angular_distance.Params(exempt_first=first, exempt_last=last),
    )
    assert ranking.kind == angular_distance.KIND
    rows = [row for row in ranking.candidates if row.n == n]
    found = [row.score for row in rows]
    np.testing.assert_allclose(found, scores, atol=1e-12)
    # Of scores that are equal but for rounding, the computed ones decide.
    inside = range(first, n_layers - last - n + 1)
    if not inside:
        with pytest.raises(LpstepsError):
            choose(ranking, n)
    else:
        best_start = min(inside, key=found.__getitem__)
        assert choose(ranking, n) == tuple(range(best_start, best_start + n))


def test_angular_distance_of_parallel_streams_is_zero_despite_rounding() -> None:
    cosines = np.full((1, 3, 3), 1.0 + 1e-15)
    context = SelectionContext(2, (1,), statistics=_statistics(cosines, cosines))
    ranking = angular_distance.rank(context, angular_distance.Params())
    assert [row.score for row in ranking.candidates] == [0.0, 0.0]


@given(random_statistics(), st.data())
def test_token_axis_cosine(statistics: Statistics, data: st.DataObject) -> None:
    n_layers = statistics.n_layers
    n = data.draw(st.integers(1, n_layers - 1))
    assert statistics.token_axis_pairs is not None
    ranking = token_axis_cosine.rank(
        SelectionContext(n_layers, (n,), statistics=statistics), token_axis_cosine.Params()
    )
    assert ranking.kind == token_axis_cosine.KIND
    # The released loop runs over the starts 1 to L - n - 1 and keeps the first maximum.
    starts = range(1, n_layers - n)
    found = {start: ranking.candidates[start].score for start in starts}
    for start in starts:
        score = 0.0
        for sample in statistics.token_axis_pairs:
            score += sample[start, start + n] / len(statistics.pairs)
        assert found[start] == pytest.approx(score, abs=1e-12)
    assert [row.eligible for row in ranking.candidates] == [
        1 <= start <= n_layers - n - 1 for start in range(n_layers - n + 1)
    ]
    if not starts:
        with pytest.raises(LpstepsError):
            choose(ranking, n)
    else:
        best_start = max(starts, key=found.__getitem__)
        assert choose(ranking, n) == tuple(range(best_start, best_start + n))


def test_token_axis_cosine_with_other_exemptions() -> None:
    cosines = np.zeros((1, 6, 6))
    cosines[0, 0, 2] = 1.0
    statistics = _statistics(np.zeros((1, 6, 6)), token_axis=cosines)
    context = SelectionContext(5, (2,), statistics=statistics)
    assert choose(token_axis_cosine.rank(context, token_axis_cosine.Params()), 2) == (1, 2)
    anywhere = token_axis_cosine.Params(exempt_first=0)
    assert choose(token_axis_cosine.rank(context, anywhere), 2) == (0, 1)


@pytest.mark.parametrize(
    ("n_layers", "n", "layers"),
    [
        (8, 1, (4,)),
        (8, 2, (2, 5)),
        (8, 3, (2, 4, 6)),
        (8, 6, (1, 2, 3, 4, 5, 6)),
        (32, 7, (3, 7, 11, 16, 20, 24, 28)),
    ],
)
def test_evenly_spread_layers(n_layers: int, n: int, layers: tuple[int, ...]) -> None:
    ranking = uniform.rank(SelectionContext(n_layers, (n,)), uniform.Params())
    assert choose(ranking, n) == layers


@given(st.integers(3, 80), st.data())
def test_evenly_spread_layers_are_distinct_and_spare_both_ends(
    n_layers: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, n_layers - 2))
    counts = tuple(range(1, n_layers))
    ranking = uniform.rank(SelectionContext(n_layers, counts), uniform.Params())
    layers = choose(ranking, n)
    assert layers[0] > 0
    assert layers[-1] < n_layers - 1
    steps = np.diff(layers)
    # Whole steps that differ by one at most are as even as it gets.
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    # The layers that stay in front of the first and behind the last one are half a step.
    before, behind = layers[0] - 1, n_layers - 2 - layers[-1]
    assert abs(before - behind) <= 1
    with pytest.raises(LpstepsError, match=f"n: {n_layers - 1}"):
        choose(ranking, n_layers - 1)


def test_listed_layers_go_in_the_order_of_the_list() -> None:
    params = listed_layers.Params(layers=(4, 1, 2))
    ranking = listed_layers.rank(SelectionContext(6, (1, 2, 3)), params)
    assert [choose(ranking, n) for n in (1, 2, 3)] == [(4,), (4, 1), (4, 1, 2)]
    assert [row.score for row in ranking.candidates] == [None, 2.0, 3.0, None, 1.0, None]
    with pytest.raises(LpstepsError, match="n: 4: this single ranking has 3 layers to offer"):
        choose(ranking, 4)


def test_mistakes_in_a_list_are_named() -> None:
    for layers, message in (
        ([], "mine: layers: "),
        ([2, -1], "mine: layers.1: -1: "),
        ([2, 3, 2], "mine: layers: 2: listed more than once"),
        ([2.5], "mine: layers.0: 2.5: "),
    ):
        with pytest.raises(LpstepsError, match=message):
            validated(listed_layers.Params, {"layers": layers}, "mine")
    with pytest.raises(LpstepsError, match="layers: 6: the model has layers 0 to 5"):
        listed_layers.rank(SelectionContext(6, (1,)), listed_layers.Params(layers=(5, 6)))


def test_a_list_for_a_deeper_model_is_told_before_any_job() -> None:
    params = listed_layers.Params(layers=(5, 6))
    assert listed_layers.unsuited(params, 2, 7) is None
    reason = "lists layer 6, which a model of 6 layers does not have"
    assert listed_layers.unsuited(params, 1, 6) == reason
    assert listed_layers.unsuited(params, 3, 7) == "lists 2 layers, which is too few to remove 3"


def test_ties_go_to_the_lowest_layer_and_to_the_first_window() -> None:
    statistics = _statistics(*np.full((3, 2, 7, 7), 0.5))
    context = SelectionContext(6, (2,), statistics=statistics)
    assert choose(block_influence.rank(context, block_influence.Params()), 2) == (0, 1)
    assert choose(contiguous_cosine.rank(context, contiguous_cosine.Params()), 2) == (0, 1)
    assert choose(angular_distance.rank(context, angular_distance.Params()), 2) == (0, 1)
    assert choose(token_axis_cosine.rank(context, token_axis_cosine.Params()), 2) == (1, 2)
    exempt = contiguous_cosine.Params(exempt_first=1)
    assert choose(contiguous_cosine.rank(context, exempt), 2) == (1, 2)


def test_the_last_window_may_end_at_the_final_norm() -> None:
    cosines = np.zeros((1, 6, 6))
    cosines[0, 3, 5] = 1.0
    context = SelectionContext(5, (2,), statistics=_statistics(cosines))
    assert choose(contiguous_cosine.rank(context, contiguous_cosine.Params()), 2) == (3, 4)


@pytest.mark.parametrize(("keep_final", "order"), [(False, (5, 4, 3)), (True, (4, 3, 2))])
def test_last_layers(keep_final: bool, order: tuple[int, ...]) -> None:
    ranking = last_layers.rank(SelectionContext(6, (3,)), last_layers.Params(keep_final=keep_final))
    assert choose(ranking, 3) == order


@given(st.integers(4, 20), st.integers(0, 1000), st.integers(0, 3))
def test_random_layers_spare_both_ends_and_nest(n_layers: int, seed: int, draw: int) -> None:
    params = random_layers.Params(draw=draw)
    ranking = random_layers.rank(SelectionContext(n_layers, (1, 2), seed), params)
    order = choose(ranking, n_layers - 2)
    assert sorted(order) == list(range(1, n_layers - 1))
    for n in range(1, n_layers - 2):
        assert choose(ranking, n) == order[:n]
    with pytest.raises(LpstepsError):
        choose(ranking, n_layers - 1)
    shifted = SelectionContext(n_layers, (5,), seed + draw)
    assert random_layers.rank(shifted, random_layers.Params()) == ranking


@given(st.integers(4, 20), st.integers(0, 1000), st.data())
def test_random_windows_spare_both_ends(n_layers: int, seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, n_layers - 2))
    params = random_window.Params()
    ranking = random_window.rank(SelectionContext(n_layers, (n,), seed), params)
    order = choose(ranking, n)
    assert order == tuple(range(order[0], order[0] + n))
    assert 1 <= order[0] <= n_layers - 1 - n
    # Asking for other numbers of layers, too, does not change the draw.
    both = SelectionContext(n_layers, tuple(range(1, n_layers)), seed)
    assert choose(random_window.rank(both, params), n) == order


@pytest.mark.parametrize(
    ("metric", "allowed"), [(random_layers, range(1, 7)), (random_window, range(1, 6))]
)
def test_random_draws_are_uniform(metric: ModuleType, allowed: range) -> None:
    draws = 3000
    counts = Counter(
        choose(metric.rank(SelectionContext(8, (2,)), metric.Params(draw=draw)), 2)[0]
        for draw in range(draws)
    )
    assert sorted(counts) == list(allowed)
    expected = draws / len(allowed)
    # Five standard deviations of a binomial count.
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


@pytest.mark.parametrize("name", method_names("selection"))
def test_every_metric_states_its_contract(name: str) -> None:
    module = selection_method(name)
    assert module.TITLE
    assert module.PAPER.startswith("https://") or module.PAPER == ""
    assert module.KIND in get_args(Kind)
    assert module.NEEDS.issubset({"statistics", "model"})
    assert all(field.description for field in module.Params.model_fields.values())
    with pytest.raises(ValidationError, match="extra_forbidden"):
        module.Params(windows=1, length=2, no_such_parameter=1)


@pytest.mark.parametrize(
    "metric", [block_influence, contiguous_cosine, angular_distance, token_axis_cosine]
)
def test_missing_or_foreign_statistics_are_refused(metric: Any) -> None:
    with pytest.raises(LpstepsError, match="--stats: required"):
        metric.rank(SelectionContext(6, (1,)), metric.Params())
    foreign = SelectionContext(9, (1,), statistics=_statistics(np.zeros((1, 7, 7))))
    with pytest.raises(LpstepsError, match="--stats: 6 layers: the model has 9"):
        metric.rank(foreign, metric.Params())


def test_checking_a_configuration_imports_nothing_heavy() -> None:
    """The workflow imports method modules for every job, so their import must stay cheap."""
    modules = [
        "lpsteps.plan",
        *(f"lpsteps.selection.{name}" for name in method_names("selection")),
        *(f"lpsteps.recovery.{name}" for name in method_names("recovery")),
    ]
    program = (
        f"import sys, {', '.join(modules)}\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'pandas', 'pyarrow', 'datasets'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
