"""A check of which parts of a decoder layer can only leave together, by the package torch-pruning.

What is cut is what :mod:`lpsteps.models.width` names; the package has to find the same. It follows
the computation of a layer from a matrix to all others whose shapes depend on it (DepGraph, arXiv
2301.12900), which is how LLM-Pruner finds its coupled structures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.layer_calls import LayerCall, watching_calls
from lpsteps.models.layers import decoder_of
from lpsteps.models.width import PrunableLayer, Structure, prunable_layer

# Any few tokens do: the graph of a computation does not depend on the values.
_TOKENS = 7


def check_coupling(model: PreTrainedModel, layers: Iterable[int]) -> None:
    """Check that heads and channels can be cut out of layers as :mod:`lpsteps.models.width` does.

    Args:
        model: The dense model.
        layers: Numbers of the layers.

    Raises:
        LpstepsError: torch-pruning is not installed, or it finds that more or other parts of a
            layer depend on a head or on a channel.
    """
    prunable = {layer: prunable_layer(model, layer) for layer in layers}
    calls = _calls(model)
    for layer, parts in prunable.items():
        module = decoder_of(model).layers[layer]
        graph = _dependency_graph(module, *calls[layer])
        for head in range(parts.heads):
            expected = parts.heads_structure([head])
            _compare(model, layer, expected, _traced(graph, parts, "self_attn.q_proj", expected))
        # The two halves of the channels, so that an exchange between them would show.
        for half in (range(parts.channels // 2), range(parts.channels // 2, parts.channels)):
            expected = parts.channels_structure(half)
            _compare(model, layer, expected, _traced(graph, parts, "mlp.gate_proj", expected))


def _calls(model: PreTrainedModel) -> list[tuple[torch.Tensor, LayerCall]]:
    """Return what each layer is called with, in the attention that computes in plain steps."""
    calls: list[tuple[torch.Tensor, LayerCall]] = []

    def keep(_: int, hidden: torch.Tensor, call: LayerCall) -> None:
        calls.append((hidden, call))

    decoder = decoder_of(model)
    tokens = torch.arange(_TOKENS, device=model.device)[None]
    implementation = model.config._attn_implementation
    try:
        # A fused attention is one step to the tracer, which would take its inputs for summands.
        model.set_attn_implementation("eager")
        with watching_calls(decoder.layers, keep), torch.no_grad():
            decoder.backbone(input_ids=tokens, use_cache=False)
    finally:
        model.set_attn_implementation(implementation)
    return calls


def _dependency_graph(layer: nn.Module, hidden: torch.Tensor, call: LayerCall) -> Any:
    """Trace a layer, called as the model calls it; return torch-pruning's dependency graph."""
    try:
        from torch_pruning import DependencyGraph
        from torch_pruning.ops import OPTYPE
    except ImportError as error:
        raise LpstepsError(
            "width: needs the package torch-pruning; install it with: pip install -e '.[width]'"
        ) from error
    wanted = {parameter: parameter.requires_grad for parameter in layer.parameters()}
    # The package reads the graph of a backward pass.
    layer.requires_grad_(True)
    try:
        graph = DependencyGraph().build_dependency(
            layer,
            example_inputs=(),
            forward_fn=lambda module, _: call.run(module, hidden),
            verbose=False,
        )
    finally:
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
    # Rotary embeddings cut every head in two halves and join them again. The package would take
    # that for another number of channels; a whole head goes in and comes out.
    nodes = list(graph.module2node.values())
    rotary = [node for node in nodes if node.type in (OPTYPE.SLICE, OPTYPE.CONCAT)]
    for node in rotary:
        node.type = OPTYPE.ELEMENTWISE
    for node in nodes:
        for dependency in node.dependencies:
            if dependency.source in rotary or dependency.target in rotary:
                dependency.index_mapping = [None, None]
    return graph


def _traced(
    graph: Any, parts: PrunableLayer, root: str, expected: Structure
) -> dict[str, tuple[int, list[int]]]:
    """Return what leaves, according to the graph, with some rows of one of its matrices."""
    from torch_pruning import prune_linear_out_channels

    names = {module: name for name, module in graph.model.named_modules()}
    names |= {parameter: name for name, parameter in graph.model.named_parameters()}
    group = graph.get_pruning_group(
        parts.modules[root], prune_linear_out_channels, list(expected[root][1])
    )
    found: dict[str, tuple[int, list[int]]] = {}
    for dependency, indices in group:
        target = dependency.target.module
        if target not in names:
            continue  # a computation without weights
        if isinstance(target, nn.Parameter) and target.shape == (parts.head_size,):
            continue  # the weights of a norm that all heads share
        axis = 0 if graph.is_out_channel_pruning_fn(dependency.handler) else 1
        # With grouped queries, each of them names the rows of their one key and value again.
        found[names[target]] = (axis, sorted(set(indices)))
    return found


def _compare(
    model: PreTrainedModel,
    layer: int,
    expected: Structure,
    found: dict[str, tuple[int, list[int]]],
) -> None:
    for name in sorted(expected.keys() | found.keys()):
        wanted = expected.get(name)
        if wanted is None or found.get(name) != (wanted[0], list(wanted[1])):
            raise LpstepsError(
                f"model_type: {model.config.model_type}: layer {layer}: {name}: torch-pruning "
                "couples it to heads or channels in a way that cutting them out cannot follow; "
                "this family can be pruned by layers only"
            )
