"""LLM-Pruner: importances, how much each layer loses, and what is chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.models.width import apply_width
from lpsteps.width import llm_pruner
from lpsteps.width_pruning import parameters_removed

WINDOWS = np.random.default_rng(0).integers(3, 128, (5, 20))
TEXT = {"windows": 4, "length": 16}
USED = WINDOWS[:4, :16]


def params(**more: int) -> llm_pruner.Params:
    return llm_pruner.Params(**TEXT, **more)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_importances_equal_a_slow_reference(tiny_model: Callable[..., Any], family: str) -> None:
    model = tiny_model(family, layers=3)
    reference = copy.deepcopy(model).requires_grad_(True)
    tokens = torch.from_numpy(USED)
    logits = reference(tokens).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    losses.mean().backward()
    found = llm_pruner.importances(model, USED, [0, 2])
    for number, (heads, channels) in zip([0, 2], found, strict=True):
        layer = decoder_of(reference).layers[number]

        def product(module: Any) -> torch.Tensor:
            return (module.weight * module.weight.grad).detach().abs().double()

        attention, mlp = layer.self_attn, layer.mlp
        expected = []
        for head in range(2):
            own, queries = slice(12 * head, 12 * head + 12), slice(24 * head, 24 * head + 24)
            expected.append(
                float(
                    product(attention.q_proj)[queries].sum()
                    + product(attention.k_proj)[own].sum()
                    + product(attention.v_proj)[own].sum()
                    + product(attention.o_proj)[:, queries].sum()
                )
            )
        np.testing.assert_allclose(heads, expected, rtol=1e-4)
        expected = [
            float(
                product(mlp.gate_proj)[channel].sum()
                + product(mlp.up_proj)[channel].sum()
                + product(mlp.down_proj)[:, channel].sum()
            )
            for channel in range(80)
        ]
        np.testing.assert_allclose(channels, expected, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@given(
    share=st.floats(0, 0.95),
    layers=st.integers(1, 30),
    heads=st.tuples(st.integers(1, 32), st.integers(1, 5000)),
    channels=st.tuples(st.integers(2, 600), st.integers(1, 50)),
)
def test_layers_lose_what_is_asked_for(
    share: float, layers: int, heads: tuple[int, int], channels: tuple[int, int]
) -> None:
    """To within half a channel, evenly, with no larger a share of the heads than is in the whole."""
    target = int(share * layers * (heads[0] * heads[1] + channels[0] * channels[1]))
    try:
        heads_lost, channels_lost = llm_pruner.share_out(target, layers, heads, channels)
    except LpstepsError:
        assume(False)
    lost = layers * heads_lost * heads[1] + sum(channels_lost) * channels[1]
    assert abs(lost - target) <= channels[1] / 2
    assert len(channels_lost) == layers
    assert channels_lost == sorted(channels_lost, reverse=True)
    assert channels_lost[0] - channels_lost[-1] <= 1
    assert 0 <= heads_lost < heads[0] and 0 <= channels_lost[-1] <= channels_lost[0] < channels[0]

    def lost_at(count: int) -> int:
        """What goes at the share of `count` heads, channels rounded down."""
        fewer = int(count * channels[0] // heads[0])
        return layers * (count * heads[1] + fewer * channels[1])

    assert lost_at(heads_lost) <= target
    assert heads_lost == heads[0] - 1 or lost_at(heads_lost + 1) > target


def test_shares_of_known_models() -> None:
    # SmolLM2-135M: 3 key-value heads with 3 queries each, 1536 channels, 24 of 30 layers.
    layer, head, channel = 3540096, 2 * 576 * 64 * 4, 3 * 576
    lost = llm_pruner.share_out(5 * layer, 24, (3, head), (1536, channel))
    assert lost == (0, [427] * 19 + [426] * 5)
    assert sum(lost[1]) * channel == pytest.approx(5 * layer, abs=channel / 2)
    # LLaMA-3-8B: 8 key-value heads with 4 queries each, 14336 channels, 26 of 32 layers.
    layer, head, channel = 218112000, 2 * 4096 * 128 * 5, 3 * 4096
    heads_lost, channels_lost = llm_pruner.share_out(7 * layer, 26, (8, head), (14336, channel))
    assert (heads_lost, min(channels_lost), max(channels_lost)) == (2, 3925, 3926)


def test_layers_that_would_lose_everything_are_refused() -> None:
    with pytest.raises(LpstepsError, match="n: 2 layers of 2 heads and 8 channels cannot lose 95"):
        llm_pruner.share_out(95, 2, (2, 20), (8, 1))


def test_the_least_important_go_and_of_equal_ones_the_first() -> None:
    assert llm_pruner.without_least(np.array([3.0, 1.0, 2.0, 1.0, 0.5]), 2) == (0, 2, 3)
    assert llm_pruner.without_least(np.array([1.0, 1.0]), 0) == (0, 1)


@pytest.mark.parametrize(("n", "heads"), [(1, 2), (2, 1), (3, 1)])
def test_a_model_loses_the_parameters_of_n_layers(tiny_llama: Any, n: int, heads: int) -> None:
    pytest.importorskip("torch_pruning")
    layer = sum(parameter.numel() for parameter in decoder_of(tiny_llama).layers[0].parameters())
    before = sum(parameter.numel() for parameter in tiny_llama.parameters())
    pruning = llm_pruner.prune_model(tiny_llama, WINDOWS, n, params(exempt_first=1, exempt_last=1))
    assert parameters_removed(pruning.shapes) == pytest.approx(n * layer, abs=3 * 48 / 2)
    assert list(pruning.layers) == [1, 2, 3, 4]
    scores = llm_pruner.importances(tiny_llama, USED, [1, 2, 3, 4])
    for width, of in zip(pruning.layers.values(), scores, strict=True):
        assert len(width.heads) == heads
        for kept, importance in zip((width.heads, width.channels), of, strict=True):
            gone = sorted(set(range(len(importance))) - set(kept))
            assert not gone or importance[gone].max() < importance[list(kept)].min()
    apply_width(tiny_llama, pruning)
    after = sum(parameter.numel() for parameter in tiny_llama.parameters())
    assert before - after == parameters_removed(pruning.shapes)
    assert torch.isfinite(tiny_llama(torch.from_numpy(WINDOWS)).logits).all()


def test_layers_that_stay_whole_leave_no_room_for_as_many_others(tiny_llama: Any) -> None:
    few = params(exempt_first=2, exempt_last=2)
    assert llm_pruner.unsuited(few, 1, 6) is None
    reason = "of 6 layers 2 may be pruned, which leaves no room for 2"
    assert llm_pruner.unsuited(few, 2, 6) == reason
    assert llm_pruner.unsuited(params(exempt_first=4, exempt_last=3), 1, 6) is not None
    with pytest.raises(LpstepsError, match=f"n: 2: {reason}"):
        llm_pruner.prune_model(tiny_llama, WINDOWS, 2, few)


def test_too_little_text_is_refused(tiny_llama: Any) -> None:
    with pytest.raises(LpstepsError, match="windows: 4 x 16 tokens: the calibration text has 3 x"):
        llm_pruner.prune_model(tiny_llama, WINDOWS[:3], 1, params())
