"""Repair-aware selections against the slow way.

The slow way collects all rows from whole forward passes, solves the regression by ``lstsq`` on
stacked rows, builds the pruned and repaired model for real, and reads the loss off its logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lpsteps.artifacts import write_json
from lpsteps.errors import LpstepsError
from lpsteps.inputs import ModelInput
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan
from lpsteps.repair_text import RepairParams, split_text
from lpsteps.selection import repair_aware_layers, repair_aware_windows
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import Ranking, choose
from lpsteps.statistics import Statistics

Array = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]
Matrices = dict[tuple[int, int], Array]

N_LAYERS = 5
LENGTH = 14
FAMILIES = ["llama", "gpt_neox", "opt", "gemma3", "qwen2", "qwen3"]
# More tokens to fit to than channels, 48.
TEXT = {"windows": 6, "heldout": 3, "length": LENGTH}
WINDOWS = np.random.default_rng(3).integers(3, 128, size=(11, LENGTH + 5))
FIT, HELDOUT = WINDOWS[:6, :LENGTH], WINDOWS[6:9, :LENGTH]
ROOTS = {"opt": "model.decoder", "gpt_neox": "gpt_neox"}


def statistics_of(pairs: npt.NDArray[np.float64]) -> Statistics:
    """Statistics with given cosines ``[samples, boundaries, boundaries]``."""
    samples, boundaries, _ = pairs.shape
    return Statistics(
        basis_name="sylvester-4",
        model="tiny",
        tokens=np.full(samples, 8, dtype=np.int32),
        means={"identity": np.ones((samples, boundaries, 4))},
        pairs=pairs,
    )


@pytest.fixture
def statistics() -> Statistics:
    return statistics_of(np.random.default_rng(5).uniform(0, 1, (2, N_LAYERS + 1, N_LAYERS + 1)))


def slow_rows(model: Any, windows: Tokens) -> list[Array]:
    """What each layer reads before any patch, and what the last one returns, ``[tokens, C]``."""
    layers = model.get_submodule(ROOTS.get(model.config.model_type, "model")).layers
    collected: list[list[Array]] = [[] for _ in range(len(layers) + 1)]

    def record(boundary: int, state: torch.Tensor) -> None:
        collected[boundary].append(state.double().numpy().reshape(-1, state.shape[-1]))

    def returned(boundary: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            record(boundary, output[0] if isinstance(output, tuple) else output)

        return hook

    # In front of a patch, which is another such hook.
    handles = [
        layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: record(0, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
            prepend=True,
        )
    ]
    handles += [
        layer.register_forward_hook(returned(number))
        for number, layer in enumerate(layers, start=1)
    ]
    with torch.no_grad():
        for window in windows:
            model(torch.from_numpy(window)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [np.concatenate(rows) for rows in collected]


def slow_matrix(source: Array, target: Array, relative_ridge: float) -> Array:
    """``I + M``, the ridge as further rows of the regression."""
    size = source.shape[1]
    ridge = relative_ridge * (source**2).sum() / size
    stacked = np.vstack([source, math.sqrt(ridge) * np.eye(size)])
    wanted = np.vstack([target - source, np.zeros((size, size))])
    return np.eye(size) + np.linalg.lstsq(stacked, wanted, rcond=None)[0]


def repaired_model(model: Any, removed: Sequence[int], matrices: Matrices) -> Any:
    patches = [
        GapPatch(start, end, (Operation("matrix", matrix),))
        for (start, end), matrix in sorted(matrices.items())
    ]
    pruned = copy.deepcopy(model)
    apply_plan(pruned, Plan.removing(N_LAYERS, tuple(removed)), PatchSet(tuple(patches)))
    return pruned


def slow_perplexity(model: Any, windows: Tokens) -> float:
    losses = []
    for window in torch.from_numpy(windows):
        with torch.no_grad():
            logits = model(window[None], use_cache=False).logits[0].double()
        for position in range(len(window) - 1):
            probabilities = torch.softmax(logits[position], dim=0)
            losses.append(-math.log(float(probabilities[window[position + 1]])))
    return math.exp(sum(losses) / len(losses))


def scores_of(ranking: Ranking) -> dict[tuple[int, int], float | None]:
    """Scores by window, of a window ranking."""
    return {(row.layers[0], row.layers[-1] + 1): row.score for row in ranking.candidates}


def windows_params(**changes: Any) -> repair_aware_windows.Params:
    return repair_aware_windows.Params(**TEXT | changes)


def layers_params(**changes: Any) -> repair_aware_layers.Params:
    return repair_aware_layers.Params(**TEXT | changes)


# ------------------------------------------------------------------------------------- windows


def slow_error(repaired: Array, dense: Array) -> float:
    """Mean over the rows of the squared error relative to the row's own square."""
    return float(np.mean(((repaired - dense) ** 2).sum(axis=1) / (dense**2).sum(axis=1)))


def slow_window_scores(model: Any, n: int, criterion: str, relative_ridge: float) -> list[float]:
    """Scores of all windows of n layers, from start 0."""
    rows, heldout = slow_rows(model, FIT), slow_rows(model, HELDOUT)
    scores = []
    for start in range(N_LAYERS - n + 1):
        end = start + n
        matrix = slow_matrix(rows[start], rows[end], relative_ridge)
        if criterion == "error":
            scores.append(slow_error(heldout[start] @ matrix, heldout[end]))
        else:
            pruned = repaired_model(model, range(start, end), {(start, end): matrix})
            scores.append(slow_perplexity(pruned, HELDOUT))
    return scores


@pytest.mark.parametrize("criterion", ["perplexity", "error"])
@pytest.mark.parametrize("name", FAMILIES)
def test_all_windows_equal_an_exhaustive_search(
    tiny_model: Callable[..., Any], statistics: Statistics, name: str, criterion: str
) -> None:
    model = tiny_model(name, layers=N_LAYERS)
    params = windows_params(candidates=None, criterion=criterion)
    ranking = repair_aware_windows.rank_by_repair(model, statistics, WINDOWS, (1, 3), params)
    assert ranking.kind == repair_aware_windows.KIND
    for n in (1, 3):
        rows = [row for row in ranking.candidates if row.n == n]
        expected = slow_window_scores(model, n, criterion, 1e-6)
        assert [row.layers for row in rows] == [
            tuple(range(start, start + n)) for start in range(N_LAYERS - n + 1)
        ]
        assert all(row.eligible for row in rows)
        assert [row.score for row in rows] == pytest.approx(expected, rel=1e-4)
        # Far enough apart for the order to be beyond rounding.
        assert np.diff(sorted(expected)).min() > 5e-4 * min(expected)
        best = int(np.argmin(expected))
        assert choose(ranking, n) == tuple(range(best, best + n))


@pytest.mark.parametrize("criterion", ["perplexity", "error"])
@pytest.mark.parametrize("relative_ridge", [0.0, 0.5])
def test_ridge_of_windows(
    tiny_model: Callable[..., Any], statistics: Statistics, criterion: str, relative_ridge: float
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    params = windows_params(candidates=None, criterion=criterion, relative_ridge=relative_ridge)
    ranking = repair_aware_windows.rank_by_repair(model, statistics, WINDOWS, (2,), params)
    expected = slow_window_scores(model, 2, criterion, relative_ridge)
    assert [row.score for row in ranking.candidates] == pytest.approx(expected, rel=1e-4)


def test_shortlist_takes_the_best_mean_cosines_and_of_equal_ones_the_lowest() -> None:
    pairs = np.zeros((2, 8, 8))
    # Windows of two layers, starts 0 to 5. By the mean: 2, then 1 and 4 alike, then 5, 3, 0.
    pairs[0, range(6), range(2, 8)] = [0.1, 0.9, 0.7, 0.2, 0.5, 0.4]
    pairs[1, range(6), range(2, 8)] = [0.1, 0.1, 0.7, 0.2, 0.5, 0.4]
    statistics = statistics_of(pairs)
    order = {
        size: [
            start
            for start, _ in repair_aware_windows.shortlist(
                statistics, 2, windows_params(candidates=size)
            )
        ]
        for size in (1, 2, 5, 9, None)
    }
    assert order == {
        1: [2],
        2: [2, 1],
        5: [2, 1, 4, 5, 3],
        9: [2, 1, 4, 5, 3, 0],
        None: [2, 1, 4, 5, 3, 0],
    }
    exempt = windows_params(candidates=3, exempt_first=2, exempt_last=1)
    assert repair_aware_windows.shortlist(statistics, 2, exempt) == [(2, 4), (4, 6), (3, 5)]


@pytest.mark.parametrize("criterion", ["perplexity", "error"])
def test_windows_that_are_not_shortlisted_are_listed_without_a_score(
    tiny_model: Callable[..., Any], statistics: Statistics, criterion: str
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    few = windows_params(candidates=2, criterion=criterion, exempt_last=1)
    everything = windows_params(candidates=None, criterion=criterion)
    ranking = repair_aware_windows.rank_by_repair(model, statistics, WINDOWS, (1, 2), few)
    full = scores_of(
        repair_aware_windows.rank_by_repair(model, statistics, WINDOWS, (1, 2), everything)
    )
    assert scores_of(ranking).keys() == full.keys()
    for n in (1, 2):
        rows = [row for row in ranking.candidates if row.n == n]
        listed = {start for start, _ in repair_aware_windows.shortlist(statistics, n, few)}
        assert {row.layers[0] for row in rows if row.eligible} == listed
        assert {row.layers[0] for row in rows if row.score is not None} == listed
        assert len(listed) == 2
        for row in rows:
            if row.eligible:
                assert row.score == pytest.approx(full[row.layers[0], row.layers[-1] + 1], rel=1e-9)


def test_a_long_token_does_not_own_the_error(
    tiny_model: Callable[..., Any], statistics: Statistics
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    # Token 7 enters the stream a thousand times as long as any other, and so it stays.
    model.model.embed_tokens.weight[7] *= 1000.0
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    windows = np.where(WINDOWS == 7, 8, WINDOWS)
    windows[:, 3] = 7
    params = windows_params(candidates=None, criterion="error")
    ranking = repair_aware_windows.rank_by_repair(model, statistics, windows, (2,), params)
    rows = slow_rows(model, windows[:6, :LENGTH])
    heldout = slow_rows(model, windows[6:9, :LENGTH])
    for start, row in enumerate(ranking.candidates):
        matrix = slow_matrix(rows[start], rows[start + 2], 1e-6)
        squares = ((heldout[start] @ matrix - heldout[start + 2]) ** 2).sum(axis=1)
        lengths = (heldout[start + 2] ** 2).sum(axis=1)
        assert row.score == pytest.approx(np.mean(squares / lengths), rel=1e-3)
        assert squares.sum() / lengths.sum() < 0.1 * (row.score or 0.0)


# -------------------------------------------------------------------------------------- layers


def slow_gaps(removed: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal runs of removed layers."""
    starts = [layer for layer in removed if layer - 1 not in removed]
    ends = [layer + 1 for layer in removed if layer + 1 not in removed]
    return list(zip(sorted(starts), sorted(ends), strict=True))


def slow_round(
    model: Any,
    removed: list[int],
    matrices: Matrices,
    tried: Sequence[int],
    params: repair_aware_layers.Params,
) -> dict[int, tuple[float, Matrices]]:
    """Score without each layer in turn, and all matrices of the model that it is measured on."""
    so_far = repaired_model(model, removed, matrices)
    dense, heldout = slow_rows(model, FIT), slow_rows(model, HELDOUT)
    current, read = slow_rows(so_far, FIT), slow_rows(so_far, HELDOUT)
    found = {}
    for layer in tried:
        gaps = slow_gaps([*removed, layer])
        (gap,) = (gap for gap in gaps if gap[0] <= layer < gap[1])
        # Layers in front of the gap that are still there.
        before = gap[0] - sum(other < gap[0] for other in removed)
        matrix = slow_matrix(current[before], dense[gap[1]], params.relative_ridge)
        after = {other: matrices[other] for other in gaps if other != gap} | {gap: matrix}
        if params.criterion == "error":
            score = slow_error(read[before] @ matrix, heldout[gap[1]])
        else:
            score = slow_perplexity(repaired_model(model, [*removed, layer], after), HELDOUT)
        found[layer] = (score, after)
    return found


def check_rounds(model: Any, rounds: int, **changes: Any) -> tuple[int, ...]:
    params = layers_params(**changes)
    ranking = repair_aware_layers.rank_by_repaired_removal(model, WINDOWS, rounds, params)
    assert ranking.kind == repair_aware_layers.KIND
    removed: list[int] = []
    matrices: Matrices = {}
    for number in range(1, rounds + 1):
        alive = [layer for layer in range(N_LAYERS) if layer not in removed]
        tried = [
            layer for layer in alive if params.exempt_first <= layer < N_LAYERS - params.exempt_last
        ]
        rows = [row for row in ranking.candidates if row.round == number]
        assert [row.layers for row in rows] == [(layer,) for layer in alive]
        assert [row.layers[0] for row in rows if row.eligible] == tried
        found = slow_round(model, removed, matrices, tried, params)
        for row in rows:
            expected = found.get(row.layers[0])
            assert row.score == (None if expected is None else pytest.approx(expected[0], rel=1e-4))
        order = sorted(tried, key=lambda layer: found[layer][0])
        if len(order) > 1:
            assert found[order[1]][0] > found[order[0]][0] * (1 + 5e-4)
        matrices = found[order[0]][1]
        removed.append(order[0])
    assert choose(ranking, rounds) == tuple(removed)
    return tuple(removed)


@pytest.mark.parametrize("criterion", ["perplexity", "error"])
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_rounds_in_families(
    tiny_model: Callable[..., Any], name: str, criterion: str
) -> None:
    check_rounds(tiny_model(name, layers=N_LAYERS), rounds=3, criterion=criterion)


@pytest.mark.parametrize("criterion", ["perplexity", "error"])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_rounds_with_nothing_exempt(
    tiny_model: Callable[..., Any], seed: int, criterion: str
) -> None:
    """Gaps at both ends of the model, several gaps at a time, and gaps that merge."""
    model = tiny_model("llama", layers=N_LAYERS, seed=seed)
    nothing = {"exempt_first": 0, "exempt_last": 0}
    check_rounds(model, rounds=4, relative_ridge=1e-2, criterion=criterion, **nothing)


@pytest.mark.parametrize("seed", range(4))
def test_errors_behind_a_repair_are_those_of_the_repaired_model(
    tiny_model: Callable[..., Any], seed: int
) -> None:
    """Errors fall with the depth, so that of equal layers the last goes first, and none behind it."""
    model = tiny_model("llama", layers=N_LAYERS, seed=seed)
    for linear in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
        linear.weight *= 0.3
    nothing = {"exempt_first": 0, "exempt_last": 0}
    order = check_rounds(model, rounds=3, relative_ridge=1.0, criterion="error", **nothing)
    assert order[:2] == (1, 4)


def test_several_gaps_and_merging_gaps_do_occur(tiny_model: Callable[..., Any]) -> None:
    """The orders of the models above: the check would miss a repair that is never looked at."""
    shapes = set()
    for seed in range(4):
        model = tiny_model("llama", layers=N_LAYERS, seed=seed)
        params = layers_params(exempt_first=0, exempt_last=0, relative_ridge=1e-2)
        ranking = repair_aware_layers.rank_by_repaired_removal(model, WINDOWS, 4, params)
        order = choose(ranking, 4)
        counts = [len(slow_gaps(order[:number])) for number in range(1, 5)]
        shapes |= set(pairwise(counts))
    assert {(1, 2), (2, 1)} <= shapes


@pytest.mark.parametrize("criterion", ["perplexity", "error"])
def test_one_shot_repeats_the_scores_of_the_dense_model(
    tiny_model: Callable[..., Any], criterion: str
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    params = layers_params(mode="one_shot", criterion=criterion)
    ranking = repair_aware_layers.rank_by_repaired_removal(model, WINDOWS, 3, params)
    found = slow_round(model, [], {}, [1, 2, 3], params)
    order = sorted(found, key=lambda layer: found[layer][0])
    assert choose(ranking, 3) == tuple(order)
    for number in (1, 2, 3):
        rows = [row for row in ranking.candidates if row.round == number]
        alive = [layer for layer in range(N_LAYERS) if layer not in order[: number - 1]]
        assert [row.layers[0] for row in rows] == alive
        for row in rows:
            layer = row.layers[0]
            assert row.eligible == (layer in found)
            assert row.score == (pytest.approx(found[layer][0], rel=1e-4) if row.eligible else None)
    greedy = repair_aware_layers.rank_by_repaired_removal(
        model, WINDOWS, 3, layers_params(criterion=criterion)
    )
    assert [row for row in greedy.candidates if row.round == 1] == [
        row for row in ranking.candidates if row.round == 1
    ]
    assert greedy != ranking


def test_too_many_rounds_are_refused(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    for mode in ("greedy", "one_shot"):
        with pytest.raises(LpstepsError, match="n: 4: in round 4 no layer is left"):
            repair_aware_layers.rank_by_repaired_removal(
                model, WINDOWS, 4, layers_params(windows=1, heldout=1, mode=mode)
            )


# ---------------------------------------------------------------------------------------- both


def test_text_is_split_into_disjoint_parts() -> None:
    windows = np.arange(60).reshape(6, 10)
    fit, heldout = split_text(windows, RepairParams(windows=3, heldout=2))
    assert fit.tolist() == windows[:3].tolist()
    assert heldout.tolist() == windows[3:5].tolist()
    fit, heldout = split_text(windows, RepairParams(windows=4, heldout=2, length=7))
    assert fit.tolist() == windows[:4, :7].tolist()
    assert heldout.tolist() == windows[4:, :7].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": 9}, "9 x 14 tokens and 3 held out: the calibration text has 11 x 19"),
        ({"heldout": 6}, "6 x 14 tokens and 6 held out"),
        ({"length": LENGTH + 6}, "6 x 20 tokens and 3 held out"),
    ],
)
def test_too_little_text_is_refused(
    tiny_llama: Any, statistics: Statistics, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(LpstepsError, match=message):
        repair_aware_windows.rank_by_repair(
            tiny_llama, statistics, WINDOWS, (1,), windows_params(**changes)
        )
    with pytest.raises(LpstepsError, match=message):
        repair_aware_layers.rank_by_repaired_removal(
            tiny_llama, WINDOWS, 1, layers_params(**changes)
        )


def test_repeatable_and_the_model_is_left_as_it_was(
    tiny_model: Callable[..., Any], statistics: Statistics
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    before = {name: values.clone() for name, values in model.state_dict().items()}

    def run() -> list[Ranking]:
        return [
            repair_aware_windows.rank_by_repair(
                model, statistics, WINDOWS, (1, 2), windows_params(criterion=criterion)
            )
            for criterion in ("perplexity", "error")
        ] + [repair_aware_layers.rank_by_repaired_removal(model, WINDOWS, 2, layers_params())]

    assert run() == run()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_activations_that_overflow_are_refused(
    tiny_model: Callable[..., Any], statistics: Statistics
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    model.model.layers[0].mlp.down_proj.weight[:] = float("inf")
    with pytest.raises(LpstepsError, match="not finite"):
        repair_aware_windows.rank_by_repair(model, statistics, WINDOWS, (1,), windows_params())
    with pytest.raises(LpstepsError, match="not finite"):
        repair_aware_layers.rank_by_repaired_removal(model, WINDOWS, 1, layers_params())


@pytest.mark.parametrize("method", [repair_aware_windows, repair_aware_layers])
def test_a_model_is_needed(method: Any) -> None:
    with pytest.raises(LpstepsError, match="--model, --windows and --compute"):
        method.rank(SelectionContext(N_LAYERS, (1,)), method.Params(windows=1, heldout=1))


@pytest.mark.parametrize("method", [repair_aware_windows, repair_aware_layers])
def test_the_model_of_the_context_is_ranked(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_model_folder: Callable[..., Path],
    statistics: Statistics,
    method: Any,
) -> None:
    compute = tmp_path / "compute.json"
    write_json(compute, {"schema": 1, "dtype": "float32", "device": "cpu"})
    folder = tiny_model_folder("llama", layers=N_LAYERS).parent
    context = SelectionContext(
        N_LAYERS, (1, 2), statistics=statistics, model=ModelInput(folder, compute, WINDOWS)
    )
    model = tiny_model("llama", layers=N_LAYERS)
    use_causal_attention(model)
    expected = {
        repair_aware_windows: lambda: repair_aware_windows.rank_by_repair(
            model, statistics, WINDOWS, (1, 2), windows_params()
        ),
        repair_aware_layers: lambda: repair_aware_layers.rank_by_repaired_removal(
            model, WINDOWS, 2, layers_params()
        ),
    }[method]()
    assert method.rank(context, method.Params(**TEXT)) == expected
