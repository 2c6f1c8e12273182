"""Perplexities without layers and without windows, against runs of the whole model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whole_model import mean_loss

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.selection import one_shot_perplexity, window_perplexity
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import choose

N_LAYERS = 4
LENGTH = 14


@pytest.fixture
def windows() -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(3, 128, size=(4, LENGTH + 5))


def test_one_shot_equals_whole_model_runs(
    tiny_model: Callable[..., Any], family: str, windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model(family, layers=N_LAYERS)
    found = one_shot_perplexity.perplexities(model, windows)
    expected = [math.exp(mean_loss(model, {layer}, windows)) for layer in range(N_LAYERS)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # The layers differ by more than rounding, so a mixed-up layer is seen.
    assert np.diff(sorted(found)).min() > 1e-3


def search(model: Any, windows: npt.NDArray[np.int64], *counts: int, **exempt: int) -> Any:
    params = window_perplexity.Params(windows=3, length=LENGTH, **exempt)
    return window_perplexity.rank_by_search(model, windows, counts, params)


def test_windows_equal_whole_model_runs(
    tiny_model: Callable[..., Any], family: str, windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model(family, layers=N_LAYERS)
    ranking = search(model, windows, 1, 2, 3)
    assert ranking.kind == window_perplexity.KIND
    used = windows[:3, :LENGTH]
    for n in (1, 2, 3):
        spans = [tuple(range(start, start + n)) for start in range(N_LAYERS - n + 1)]
        rows = [row for row in ranking.candidates if row.n == n]
        assert [row.layers for row in rows] == spans
        expected = {span: math.exp(mean_loss(model, span, used)) for span in spans}
        np.testing.assert_allclose([row.score for row in rows], list(expected.values()), rtol=1e-4)
        assert np.diff(sorted(expected.values())).min() > 1e-3
        assert choose(ranking, n) == min(expected, key=expected.__getitem__)


def test_exempt_windows_are_listed_but_not_tried(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=6)
    everywhere = search(model, windows, 2)
    inside = search(model, windows, 2, exempt_first=1, exempt_last=2)
    assert [row.layers for row in inside.candidates] == [(s, s + 1) for s in range(5)]
    assert [row.eligible for row in inside.candidates] == [False, True, True, False, False]
    assert [row.score for row in inside.candidates] == [
        row.score if tried.eligible else None
        for row, tried in zip(everywhere.candidates, inside.candidates, strict=True)
    ]
    with pytest.raises(LpstepsError, match="n: 4: this window ranking has 0 layers"):
        choose(search(model, windows, 4, exempt_first=1, exempt_last=2), 4)


def test_equal_perplexities_remove_the_lowest_window(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    # Layers whose projections back into the stream are zero pass it on unchanged.
    for layer in decoder_of(model).layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    ranking = search(model, windows, 2)
    assert len({row.score for row in ranking.candidates}) == 1
    assert [row.rank for row in ranking.candidates] == [1, 2, 3]


def test_too_little_text_is_refused(tiny_llama: Any, windows: npt.NDArray[np.int64]) -> None:
    params = window_perplexity.Params(windows=5, length=LENGTH)
    with pytest.raises(LpstepsError, match="windows: 5 x 14 tokens: the calibration text has 4"):
        window_perplexity.rank_by_search(tiny_llama, windows, (1,), params)


@pytest.mark.parametrize("metric", [one_shot_perplexity, window_perplexity])
def test_a_model_is_needed(metric: Any) -> None:
    with pytest.raises(LpstepsError, match="--model, --windows and --compute"):
        metric.rank(SelectionContext(6, (1,)), metric.Params(windows=1, length=2))
