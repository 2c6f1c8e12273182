from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lpsteps.models.layer_calls import LayerCall, output_of, split_call, watching_calls
from lpsteps.models.layers import decoder_of

HIDDEN = torch.arange(6.0).view(1, 2, 3)


class Layer(nn.Module):
    """Adds a mask, and returns the hidden states with something else behind them or alone."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.alone = alone

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> Any:
        hidden = hidden_states + mask
        return hidden if self.alone else (hidden, mask)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((HIDDEN,), {"mask": 1}),
        ((HIDDEN, 1), {}),
        ((), {"hidden_states": HIDDEN, "mask": 1}),
    ],
)
def test_a_call_is_repeated_on_other_hidden_states(
    positional: tuple[Any, ...], named: dict[str, Any], alone: bool
) -> None:
    layer = Layer(alone)
    hidden, call = split_call(positional, named)
    assert hidden is HIDDEN
    assert torch.equal(call.run(layer, hidden), output_of(layer(*positional, **named)))
    assert torch.equal(call.run(layer, 2 * hidden), 2 * HIDDEN + 1)
    assert named.keys() >= ({"hidden_states"} if not positional else set())


def test_calls_are_told_in_order_and_only_inside_the_block() -> None:
    layers = [Layer(True), Layer(False)]
    told: list[tuple[int, torch.Tensor, LayerCall]] = []
    with watching_calls(layers, lambda *one: told.append(one)):
        layers[1](HIDDEN, mask=3)
        layers[0](hidden_states=2 * HIDDEN, mask=4)
    layers[0](HIDDEN, 5)
    assert [place for place, _, _ in told] == [1, 0]
    assert torch.equal(told[0][1], HIDDEN) and torch.equal(told[1][1], 2 * HIDDEN)
    assert [call.named for _, _, call in told] == [{"mask": 3}, {"mask": 4}]


def test_nothing_watches_a_layer_after_an_error() -> None:
    layer = Layer(True)
    with pytest.raises(TypeError), watching_calls([layer], lambda *_: None):
        layer(HIDDEN)
    assert not layer._forward_pre_hooks


def test_the_calls_of_a_model_make_its_output(tiny_model: Callable[..., Any], family: str) -> None:
    model = tiny_model(family)
    decoder = decoder_of(model)
    modules = [*decoder.layers, decoder.norm]
    told: list[tuple[int, torch.Tensor, LayerCall]] = []
    with torch.inference_mode(), watching_calls(modules, lambda *one: told.append(one)):
        tokens = torch.arange(10)[None]
        expected = decoder.backbone(input_ids=tokens, use_cache=False).last_hidden_state
        hidden = told[0][1]
        for place, _, call in told[:]:
            hidden = call.run(modules[place], hidden)
    assert [place for place, _, _ in told[: len(modules)]] == list(range(len(modules)))
    torch.testing.assert_close(hidden, expected)
