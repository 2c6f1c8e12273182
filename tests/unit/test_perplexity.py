from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch

from lpsteps.evaluation.perplexity import perplexity, window_losses


def random_windows(count: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 128, size=(count, length))


def reference_losses(model: Any, windows: np.ndarray) -> list[float]:
    """The whole model and torch's cross-entropy, one window at a time."""
    losses = []
    for window in torch.from_numpy(windows):
        logits = model(window[None]).logits[0, :-1].double()
        losses.append(float(torch.nn.functional.cross_entropy(logits, window[1:])))
    return losses


def test_losses_equal_the_cross_entropy_of_the_whole_model(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    windows = random_windows(5, 100)
    # 4 windows of 99 predictions are more than one block of the softmax.
    losses = window_losses(model, windows, batch=4)
    np.testing.assert_allclose(losses, reference_losses(model, windows), rtol=0, atol=1e-5)
    expected = math.exp(statistics.fmean(reference_losses(model, windows)))
    assert perplexity(losses).value == pytest.approx(expected, rel=1e-5)


def test_every_token_is_equally_likely_for_a_head_of_zeros(tiny_llama: Any) -> None:
    tiny_llama.lm_head.weight.zero_()
    losses = window_losses(tiny_llama, random_windows(3, 40))
    assert perplexity(losses).value == pytest.approx(128, rel=1e-5)
    assert perplexity(losses).stderr == pytest.approx(0, abs=1e-4)


def test_the_batch_changes_only_the_speed(tiny_llama: Any) -> None:
    windows = random_windows(5, 30)
    one, many = (window_losses(tiny_llama, windows, batch=batch) for batch in (1, 3))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_windows_count_equally_and_the_error_is_that_of_their_mean() -> None:
    losses = [2.0, 3.0, 2.5, 4.0]
    result = perplexity(losses)
    assert result.value == pytest.approx(math.exp(2.875))
    assert result.stderr is not None
    # Delta method, by a finite difference of exp around the mean.
    mean_error = statistics.stdev(losses) / math.sqrt(4)
    step = 1e-6
    slope = (math.exp(2.875 + step) - math.exp(2.875 - step)) / (2 * step)
    assert result.stderr == pytest.approx(slope * mean_error, rel=1e-6)


def test_one_window_has_no_standard_error() -> None:
    assert perplexity([1.0]).stderr is None
