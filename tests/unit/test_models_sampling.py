"""Text that a model draws from its own distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lpsteps.models import sampling
from lpsteps.models.sampling import sample_windows

STARTS = np.array([[5, 9], [7, 3], [11, 4], [5, 9], [8, 2]])


def drawn_without_cache(model: Any, starts: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Read the whole text anew for every token."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor(starts)
    while rows.shape[1] < length:
        probabilities = torch.softmax(model(input_ids=rows).logits[:, -1], dim=-1)
        rows = torch.cat([rows, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    return rows.numpy()


def test_tokens_follow_the_distribution_of_the_model(
    family: str, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    drawn = sample_windows(model, STARTS, 20, seed=3)
    np.testing.assert_array_equal(drawn, drawn_without_cache(model, STARTS, 20, seed=3))


def test_each_batch_goes_on_from_its_own_starts(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keys and values of 6 layers, 2 heads of 12 channels and 20 positions: room for two windows.
    monkeypatch.setattr(sampling, "CACHE_BYTES", 2 * (2 * 6 * 2 * 12 * 20 * 4) + 1)
    drawn = sample_windows(tiny_llama, STARTS, 20, seed=3)
    np.testing.assert_array_equal(drawn[:, :2], STARTS)
    first = drawn_without_cache(tiny_llama, STARTS[:2], 20, seed=3)
    np.testing.assert_array_equal(drawn[:2], first)
    assert len({tuple(row) for row in drawn}) == len(drawn)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides(tiny_llama: Any, seed: int) -> None:
    drawn = [sample_windows(tiny_llama, STARTS, 12, seed=s) for s in (seed, seed, 9)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
