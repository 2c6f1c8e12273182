"""Prune&Comp's loop against whole-model runs, and against scalars that are folded into weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from whole_model import Scale

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.selection import prune_and_comp
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import Ranking, choose

N_LAYERS = 4
LENGTH = 14


@pytest.fixture
def windows() -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(3, 128, size=(4, LENGTH + 5))


def find(model: Any, windows: npt.NDArray[np.int64], rounds: int, **exempt: int) -> Ranking:
    params = prune_and_comp.Params(windows=3, length=LENGTH, **exempt)
    return prune_and_comp.rank_by_influence(model, windows, rounds, params)


def slow_influences(model: Any, windows: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Influence and scale of each layer that the model has now, from float64 loops."""
    layers = decoder_of(model).layers
    seen: dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}

    def watch(layer: int) -> Any:
        def keep(_: Any, positional: Any, named: Any, output: Any) -> None:
            before = positional[0] if positional else named["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            seen[layer] = (before[0].double().numpy(), after[0].double().numpy())

        return layers[layer].register_forward_hook(keep, with_kwargs=True)

    cosines: list[list[float]] = [[] for _ in layers]
    ratios: list[list[float]] = [[] for _ in layers]
    handles = [watch(layer) for layer in range(len(layers))]
    for window in torch.from_numpy(windows):
        with torch.no_grad():
            model(window[None], use_cache=False)
        for layer, (before, after) in seen.items():
            for x, y in zip(before, after, strict=True):
                cosines[layer].append(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
            channels = np.abs(after).mean(axis=0) / np.abs(before).mean(axis=0)
            ratios[layer].append(channels.mean())
    for handle in handles:
        handle.remove()
    return [1 - np.mean(row) for row in cosines], [float(np.mean(row)) for row in ratios]


def check_rounds(model: Any, windows: npt.NDArray[np.int64], rounds: int) -> tuple[int, ...]:
    """Compare with a model in which a layer that went is replaced by its scalar."""
    ranking = find(model, windows, rounds)
    assert ranking.kind == prune_and_comp.KIND
    layers = decoder_of(model).layers
    alive = list(range(len(layers)))
    removed = []
    for number in range(1, rounds + 1):
        influences, scales = slow_influences(model, windows[:3, :LENGTH])
        rows = [row for row in ranking.candidates if row.round == number]
        assert [row.layers for row in rows] == [(layer,) for layer in alive]
        assert all(row.eligible for row in rows)
        expected = [influences[layer] for layer in alive]
        np.testing.assert_allclose([row.score for row in rows], expected, rtol=1e-3, atol=1e-6)
        gone = min(alive, key=influences.__getitem__)
        removed.append(gone)
        alive.remove(gone)
        assert abs(scales[gone] - 1) > 1e-3
        layers[gone] = Scale(layers[gone], scales[gone])
    assert choose(ranking, rounds) == tuple(removed)
    return tuple(removed)


def test_equals_a_model_whose_removed_layers_only_rescale(
    tiny_model: Callable[..., Any], family: str, windows: npt.NDArray[np.int64]
) -> None:
    check_rounds(tiny_model(family, layers=N_LAYERS), windows, rounds=3)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_scalars_of_neighbours_multiply(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64], order: tuple[int, int]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    # Weak layers go first, the weakest before all; what is behind both then reads both scalars.
    for layer, strength in zip(order, (0.2, 0.4), strict=True):
        decoder_of(model).layers[layer].self_attn.o_proj.weight.mul_(strength)
        decoder_of(model).layers[layer].mlp.down_proj.weight.mul_(strength)
    assert check_rounds(model, windows, rounds=3)[:2] == order


def test_equals_scalars_folded_into_embedding_and_output_projections(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    # Without the epsilon in the norms the two are the same function.
    model = tiny_model("llama", layers=6, rms_norm_eps=1e-12)
    ranking = find(model, windows, rounds=4)
    folded = copy.deepcopy(model)
    originals = list(range(6))
    for number in range(1, 5):
        influences, scales = slow_influences(folded, windows[:3, :LENGTH])
        rows = [row for row in ranking.candidates if row.round == number]
        np.testing.assert_allclose([row.score for row in rows], influences, rtol=1e-3)
        gone = int(np.argmin(influences))
        assert choose(ranking, number)[-1] == originals.pop(gone)
        folded.model.embed_tokens.weight.mul_(scales[gone])
        for layer in folded.model.layers[:gone]:
            layer.self_attn.o_proj.weight.mul_(scales[gone])
            layer.mlp.down_proj.weight.mul_(scales[gone])
        remaining = [layer for at, layer in enumerate(folded.model.layers) if at != gone]
        folded.model.layers = nn.ModuleList(remaining)
        folded.config.num_hidden_layers = len(remaining)


def test_compensation_matters(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    """The scores of the second round are not those of a model that is merely pruned."""
    model = tiny_model("llama", layers=N_LAYERS)
    ranking = find(model, windows, rounds=2, exempt_last=1)
    (gone,) = choose(ranking, 1)
    layers = decoder_of(model).layers
    layers[gone] = Scale(layers[gone], 1.0)
    influences, _ = slow_influences(model, windows[:3, :LENGTH])
    behind = [row for row in ranking.candidates if row.round == 2 and row.layers[0] > gone]
    assert behind
    for row in behind:
        assert row.score != pytest.approx(influences[row.layers[0]], rel=1e-2)


def test_exemptions_count_layers_of_the_dense_model(
    tiny_llama: Any, windows: npt.NDArray[np.int64]
) -> None:
    ranking = find(tiny_llama, windows, rounds=3, exempt_first=1, exempt_last=2)
    assert sorted(choose(ranking, 3)) == [1, 2, 3]
    for row in ranking.candidates:
        assert row.eligible == (row.layers[0] in (1, 2, 3))
    with pytest.raises(LpstepsError, match="n: 4: in round 4 no layer is left"):
        find(tiny_llama, windows, rounds=4, exempt_first=1, exempt_last=2)


def test_a_channel_that_is_silent_on_both_sides_keeps_its_scale() -> None:
    before, after = torch.ones(2, 3, 4), torch.full((2, 3, 4), 3.0)
    before[..., 1] = after[..., 1] = 0.0
    influence, scale = prune_and_comp.influence_and_scale(before, after)
    assert influence == pytest.approx(0.0, abs=1e-6)
    assert scale == pytest.approx((3.0 * 3 + 1.0) / 4)


def test_equal_influences_remove_the_lowest_layer(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    for layer in decoder_of(model).layers[1:]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    assert choose(find(model, windows, rounds=3), 3) == (1, 2, 3)


def test_a_model_is_needed() -> None:
    with pytest.raises(LpstepsError, match="--model, --windows and --compute"):
        prune_and_comp.rank(SelectionContext(6, (1,)), prune_and_comp.Params(windows=1, length=2))
