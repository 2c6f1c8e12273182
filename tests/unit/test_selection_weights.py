"""Taylor and magnitude against autograd over the entire model, and the released layer orders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from tiny_families import FAMILIES

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.selection import magnitude, one_shot_perplexity, taylor
from lpsteps.selection.base import SelectionContext
from lpsteps.selection.ranking import Exemptions, choose, ranked_layers

N_LAYERS = 4


@pytest.fixture
def windows() -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(3, 128, size=(5, 16))


def weights_of(model: Any, layer: int) -> list[torch.nn.Parameter]:
    """What the released code counts, names with "weight" in them, and experts, of one layer."""
    experts = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    return [
        parameter
        for name, parameter in model.named_parameters()
        if f".layers.{layer}." in name and name.endswith(("weight", *experts))
    ]


def slow_importances(model: Any, batches: list[npt.NDArray[np.int64]]) -> list[float]:
    """Float64 gradients of every parameter of the model; signed products, then absolute values."""
    model = copy.deepcopy(model).double().requires_grad_(True)
    weights = [weights_of(model, layer) for layer in range(N_LAYERS)]
    products = [[torch.zeros_like(weight) for weight in row] for row in weights]
    for batch in batches:
        model.zero_grad()
        tokens = torch.from_numpy(batch)
        logarithms = torch.log_softmax(model(tokens, use_cache=False).logits[:, :-1], dim=-1)
        chosen = logarithms.gather(2, tokens[:, 1:, None])
        (-chosen.sum() / chosen.numel()).backward()
        for row, sums in zip(weights, products, strict=True):
            for weight, total in zip(row, sums, strict=True):
                total += (weight * weight.grad).detach()
    return [sum(float(total.abs().sum()) for total in sums) for sums in products]


def test_taylor_equals_autograd_over_the_whole_model(
    tiny_model: Callable[..., Any], family: str, windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model(family, layers=N_LAYERS)
    expected = slow_importances(model, [windows])
    np.testing.assert_allclose(taylor.importances(model, windows), expected, rtol=1e-4)


GPT_OSS = {
    "intermediate_size": 40,
    "num_local_experts": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_experts_count_although_no_name_says_weight(
    tiny_model: Callable[..., Any],
    windows: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setitem(FAMILIES, "gpt_oss", ("GptOssConfig", GPT_OSS))
    model = tiny_model(name, layers=N_LAYERS)
    # The usual one multiplies no float64.
    model.set_experts_implementation("eager")
    counted = [weights_of(model, layer) for layer in range(N_LAYERS)]
    assert all(sum(weight.dim() == 3 for weight in weights) == 2 for weights in counted)
    # The biases of GPT-OSS have two dimensions, one of them for the experts.
    biases = [p for name, p in model.named_parameters() if name.endswith("_bias")]
    assert [bias.dim() for bias in biases] == [2] * (2 * N_LAYERS if name == "gpt_oss" else 0)
    for bias in biases:
        bias.fill_(9.0)
    expected = [
        sum(float(np.abs(weight.double().numpy()).sum()) for weight in weights)
        for weights in counted
    ]
    np.testing.assert_allclose(magnitude.magnitudes(model), expected, rtol=1e-6)
    np.testing.assert_allclose(
        taylor.importances(model, windows), slow_importances(model, [windows]), rtol=1e-4
    )


def test_batches_add_up_before_the_absolute_value(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    whole = taylor.importances(model, windows)
    for batch in (1, 2, 4):
        np.testing.assert_allclose(taylor.importances(model, windows, batch), whole, rtol=1e-4)
    # Batches of one size give the released score up to their number.
    released = slow_importances(model, [window[None] for window in windows])
    np.testing.assert_allclose(whole, np.divide(released, len(windows)), rtol=1e-4)
    # Absolute values first would give something else.
    apart = np.sum([slow_importances(model, [window[None]]) for window in windows], axis=0)
    assert (apart / len(windows) > 1.1 * np.array(whole)).all()


def test_taylor_of_a_bfloat16_model_is_computed_in_float32(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS).bfloat16()
    expected = slow_importances(model, [windows])
    np.testing.assert_allclose(taylor.importances(model, windows), expected, rtol=1e-4)


def test_taylor_leaves_no_gradients_and_no_hooks(
    tiny_model: Callable[..., Any], windows: npt.NDArray[np.int64]
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    before = copy.deepcopy(model.state_dict())
    first = taylor.importances(model, windows, 2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    assert taylor.importances(model, windows, 2) == first


def test_one_batch_holds_one_gradient_at_a_time(
    tiny_model: Callable[..., Any],
    windows: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama", layers=N_LAYERS)
    held: list[int] = []
    register = torch.nn.Parameter.register_post_accumulate_grad_hook

    def counting(parameter: Any, hook: Any) -> Any:
        def counted(weight: Any) -> None:
            held.append(sum(other.grad is not None for other in model.parameters()))
            hook(weight)

        return register(parameter, counted)

    monkeypatch.setattr(torch.nn.Parameter, "register_post_accumulate_grad_hook", counting)
    taylor.importances(model, windows)
    assert held == [1] * sum(len(weights_of(model, layer)) for layer in range(N_LAYERS))


def test_magnitude_counts_matrices_and_norms_but_no_biases(
    tiny_model: Callable[..., Any], family: str
) -> None:
    model = tiny_model(family, layers=N_LAYERS)
    generator = torch.Generator().manual_seed(0)
    for layer in decoder_of(model).layers:
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    expected = [
        sum(float(np.abs(weight.double().numpy()).sum()) for weight in weights_of(model, layer))
        for layer in range(N_LAYERS)
    ]
    np.testing.assert_allclose(magnitude.magnitudes(model), expected, rtol=1e-6)
    everything = [
        sum(float(parameter.abs().sum()) for parameter in layer.parameters())
        for layer in decoder_of(model).layers
    ]
    has_biases = family in ("gpt_neox", "opt", "qwen2")
    assert (np.array(everything) > np.array(expected) * 1.0001).all() == has_biases


# Orders in which Shortened LLaMA's repository publishes the layers of the two models, the least
# important first (output_block_sensitivity/<model>/{taylor,ppl}_n10/block_order.csv of
# Nota-NetsPresso/shortened-llm).
RELEASED_ORDERS = {
    ("llama-2-7b", "taylor"): [
        *(0, 28, 27, 25, 29, 26, 24, 23, 21, 22, 30, 20, 19, 18, 17, 14),
        *(16, 13, 12, 15, 31, 11, 10, 1, 9, 8, 7, 6, 5, 2, 4, 3),
    ],
    ("llama-2-7b", "ppl"): [
        *(11, 8, 24, 21, 12, 7, 9, 10, 18, 27, 14, 23, 25, 15, 20, 26),
        *(17, 6, 13, 28, 22, 19, 5, 29, 4, 16, 30, 3, 2, 31, 1, 0),
    ],
    ("llama-3-8b", "taylor"): [
        *(24, 25, 26, 28, 29, 23, 27, 22, 20, 19, 21, 30, 18, 17, 16, 13),
        *(14, 15, 12, 11, 10, 9, 8, 7, 6, 5, 31, 4, 3, 0, 2, 1),
    ],
    ("llama-3-8b", "ppl"): [
        *(8, 23, 9, 11, 10, 25, 26, 12, 22, 19, 24, 14, 7, 21, 3, 15),
        *(18, 4, 28, 13, 16, 20, 17, 27, 6, 5, 29, 2, 30, 31, 1, 0),
    ],
}

# "Taylor+" in table 8 of LinearPatch (https://arxiv.org/abs/2505.24680), in removal order.
PRINTED_TAYLOR_PLUS = {
    ("llama-2-7b", 9): (28, 27, 25, 29, 26, 24, 23, 21, 22),
    ("llama-2-7b", 7): (28, 27, 25, 29, 26, 24, 23),
    ("llama-3-8b", 7): (24, 25, 26, 28, 29, 23, 27),
    ("llama-3-8b", 5): (24, 25, 26, 28, 29),
}
METRICS = {"taylor": taylor, "ppl": one_shot_perplexity, "magnitude": magnitude}
SELECTIONS = yaml.safe_load((Path(__file__).parents[2] / "config/methods.yaml").read_text())[
    "selections"
]


def exemptions(name: str) -> Exemptions:
    """The parameters of a selection as the project's own config gives them."""
    parameters = METRICS[name.removesuffix("+")].Params(**SELECTIONS[name].get("params", {}))
    assert isinstance(parameters, Exemptions)
    return parameters


def scores_of(order: list[int]) -> list[float]:
    assert sorted(order) == list(range(32))
    return [float(order.index(layer)) for layer in range(32)]


@pytest.mark.parametrize(("model", "n"), PRINTED_TAYLOR_PLUS)
def test_released_taylor_orders_give_the_printed_sets(model: str, n: int) -> None:
    ranking = ranked_layers(scores_of(RELEASED_ORDERS[model, "taylor"]), exemptions("taylor+"))
    assert choose(ranking, n) == PRINTED_TAYLOR_PLUS[model, n]


def test_without_the_exemptions_llama_2_would_lose_its_first_layer() -> None:
    ranking = ranked_layers(
        scores_of(RELEASED_ORDERS["llama-2-7b", "taylor"]), exemptions("taylor")
    )
    assert choose(ranking, 1) == (0,)


@pytest.mark.parametrize(("model", "metric"), RELEASED_ORDERS)
def test_exemptions_leave_the_order_of_the_other_layers(model: str, metric: str) -> None:
    order = RELEASED_ORDERS[model, metric]
    ranking = ranked_layers(scores_of(order), exemptions(f"{metric}+"))
    kept = {0, 1, 2, 3, 30, 31}
    assert choose(ranking, 26) == tuple(layer for layer in order if layer not in kept)
    with pytest.raises(LpstepsError, match="n: 27: this single ranking has 26 layers"):
        choose(ranking, 27)


@pytest.mark.parametrize("name", METRICS)
def test_the_config_exempts_what_the_released_code_does(name: str) -> None:
    """The first four layers and the last two where the name has a "+", and none elsewhere."""
    plus, plain = exemptions(f"{name}+"), exemptions(name)
    assert (plus.exempt_first, plus.exempt_last) == (4, 2)
    assert (plain.exempt_first, plain.exempt_last) == (0, 0)


@pytest.mark.parametrize(
    ("metric", "params"), [(taylor, {"windows": 1, "length": 2}), (magnitude, {})]
)
def test_a_model_is_needed(metric: Any, params: dict[str, int]) -> None:
    with pytest.raises(LpstepsError, match="--model, --windows and --compute"):
        metric.rank(SelectionContext(6, (1,)), metric.Params(**params))
