"""SLEB against the slow way: skip a layer, run the whole model, read the loss off its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from whole_model import mean_loss

from lpsteps.errors import LpstepsError
from lpsteps.models import layerwise
from lpsteps.models.layers import decoder_of
from lpsteps.selection import sleb
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import choose

N_LAYERS = 5
LENGTH = 14


@pytest.fixture
def windows() -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(3, 128, size=(4, LENGTH + 5))


def check_rounds(model: Any, windows: npt.NDArray[np.int64], rounds: int, **barriers: int) -> None:
    params = sleb.Params(windows=3, length=LENGTH, **barriers)
    ranking = sleb.rank_by_removal(model, windows, rounds, params)
    assert ranking.kind == sleb.KIND
    used = windows[:3, :LENGTH]
    removed: list[int] = []
    for number in range(1, rounds + 1):
        alive = [layer for layer in range(N_LAYERS) if layer not in removed]
        tried = alive[params.early_barrier : len(alive) - params.latter_barrier]
        rows = [row for row in ranking.candidates if row.round == number]
        assert [row.layers for row in rows] == [(layer,) for layer in alive]
        assert [row.layers[0] for row in rows if row.eligible] == tried
        losses = {layer: mean_loss(model, {*removed, layer}, used) for layer in tried}
        for row in rows:
            expected = losses.get(row.layers[0])
            assert row.score == (None if expected is None else pytest.approx(expected, rel=1e-5))
        # The losses of this round are far enough apart for the order to be beyond rounding.
        apart = np.diff(sorted(losses.values()))
        assert len(apart) == 0 or apart.min() > 3e-5
        removed.append(min(losses, key=losses.__getitem__))
    assert choose(ranking, rounds) == tuple(removed)


def test_equals_whole_model_runs_in_every_family(
    tiny_model: Callable[..., Any], family: str, windows: npt.NDArray[np.int64]
) -> None:
    check_rounds(tiny_model(family, layers=N_LAYERS), windows, rounds=2)


def test_equals_whole_model_runs_down_to_the_last_removable_layer(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    check_rounds(tiny_model("llama", layers=N_LAYERS), windows, rounds=N_LAYERS - 2)


@pytest.mark.parametrize(("early", "latter"), [(0, 0), (2, 1), (0, 2)])
def test_barriers(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64], early: int, latter: int
) -> None:
    check_rounds(
        tiny_model("llama", layers=N_LAYERS),
        windows,
        rounds=2,
        early_barrier=early,
        latter_barrier=latter,
    )


def test_soft_capped_logits(tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]) -> None:
    model = tiny_model("gemma2", layers=N_LAYERS, final_logit_softcapping=0.05)
    check_rounds(model, windows, rounds=1)


def test_logits_in_blocks_give_the_same_losses(
    tiny_model: Callable[..., Any],
    windows: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layerwise, "_LOGITS_PER_BLOCK", 7 * 128)
    check_rounds(tiny_model("llama", layers=N_LAYERS), windows, rounds=1)


def test_equal_losses_remove_the_lowest_layer(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    # Layers whose projections back into the stream are zero pass it on unchanged.
    for layer in decoder_of(model).layers[2:4]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    ranking = sleb.rank_by_removal(model, windows, 1, sleb.Params(windows=2, length=LENGTH))
    scores = {row.layers[0]: row.score for row in ranking.candidates}
    assert scores[2] == scores[3]
    ranks = {row.layers[0]: row.rank for row in ranking.candidates}
    assert (ranks[2] or 0) + 1 == ranks[3]


def test_unless_told_it_reads_one_whole_window_in_32(tiny_llama: Any) -> None:
    many = np.random.default_rng(4).integers(3, 128, size=(70, LENGTH))
    for available, used in ((70, 2), (40, 1), (3, 1)):
        told = sleb.Params(windows=used, length=LENGTH)
        by_itself = sleb.rank_by_removal(tiny_llama, many[:available], 1, sleb.Params())
        assert by_itself == sleb.rank_by_removal(tiny_llama, many[:available], 1, told)


def test_the_model_is_left_as_it_was(tiny_llama: Any, windows: npt.NDArray[np.int64]) -> None:
    before = {name: values.clone() for name, values in tiny_llama.state_dict().items()}
    sleb.rank_by_removal(tiny_llama, windows, 2, sleb.Params(windows=2, length=LENGTH))
    after = tiny_llama.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not module._forward_pre_hooks for module in tiny_llama.modules())


def test_too_many_rounds_are_refused(tiny_llama: Any, windows: npt.NDArray[np.int64]) -> None:
    with pytest.raises(LpstepsError, match="in round 5 no layer is left"):
        sleb.rank_by_removal(tiny_llama, windows, 5, sleb.Params(windows=1, length=2))


@pytest.mark.parametrize(("count", "length"), [(5, LENGTH), (4, LENGTH + 6)])
def test_too_little_text_is_refused(
    tiny_llama: Any, windows: npt.NDArray[np.int64], count: int, length: int
) -> None:
    with pytest.raises(LpstepsError, match=f"windows: {count} x {length} tokens"):
        sleb.rank_by_removal(tiny_llama, windows, 1, sleb.Params(windows=count, length=length))


def test_a_model_is_needed() -> None:
    with pytest.raises(LpstepsError, match="--model, --windows and --compute"):
        sleb.rank(SelectionContext(6, (1,)), sleb.Params(windows=1, length=2))
