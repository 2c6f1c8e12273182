"""How a model calls its decoder layers and its final norm.

Some families pass the hidden states by position, others by name; some layers return them alone,
others as the first of several things. Nothing else in the project has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

_HIDDEN = "hidden_states"


@dataclass(frozen=True, eq=False)
class LayerCall:
    """What a model hands to a layer besides the hidden states: masks, rotary embeddings, caches.

    Attributes:
        positional: By position, behind the hidden states.
        named: By name.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def run(
        self,
        module: nn.Module,
        hidden: torch.Tensor,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the hidden states that a module makes of others when it is called like this.

        Args:
            module: The layer, or what stands in for it.
            hidden: What it reads, `[batch, tokens, hidden_size]`.
            weights: Parameters that it has for this call alone, by their names in the module.
        """
        if weights:
            arguments = (hidden, *self.positional)
            return output_of(functional_call(module, dict(weights), arguments, dict(self.named)))
        return output_of(module(hidden, *self.positional, **self.named))


CallCallback = Callable[[int, torch.Tensor, LayerCall], None]


def split_call(
    positional: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[torch.Tensor, LayerCall]:
    """Take the hidden states out of the arguments of a layer or norm."""
    if positional:
        return positional[0], LayerCall(positional[1:], dict(named))
    others = {name: value for name, value in named.items() if name != _HIDDEN}
    return named[_HIDDEN], LayerCall((), others)


def output_of(result: Any) -> torch.Tensor:
    """Return the hidden states in what a layer or norm returned."""
    hidden: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return hidden


@contextmanager
def watching_calls(modules: Iterable[nn.Module], callback: CallCallback) -> Iterator[None]:
    """Call back before each call of some layers or norms inside the `with` block.

    Args:
        modules: Whose calls to watch.
        callback: Gets the place of the module among them, the model's own hidden states, which it
            must not change, and the rest of the call.
    """
    handles = [
        module.register_forward_pre_hook(partial(_report, callback, place), with_kwargs=True)
        for place, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _report(
    callback: CallCallback,
    place: int,
    _: nn.Module,
    positional: tuple[Any, ...],
    named: Mapping[str, Any],
) -> None:
    callback(place, *split_call(positional, named))
