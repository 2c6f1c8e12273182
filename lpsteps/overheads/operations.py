"""The operations whose cost is compared, and the measurement of all of them on one model.

All read the same hidden states: what enters the first decoder layer for random tokens. Weights are
random, except those of the decoder layer, since no time depends on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.calibration import Rotation
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import Basis, basis_matrix
from lpsteps.models.layer_calls import LayerCall, watching_calls
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.patch import RMS_EPSILON, Patch
from lpsteps.models.surgery import apply_plan
from lpsteps.overheads.costs import layer_flops, operation_flops
from lpsteps.overheads.measurements import OperationFacts, OperationName, Relative, Spread
from lpsteps.overheads.timing import Work, time_in_turns
from lpsteps.patch_matrix import patch_matrix
from lpsteps.patches import GapPatch, Operation
from lpsteps.plan import Plan


class RotatedScales(nn.Module):
    """A patch without its matrix: ``((x @ H) * d) @ H.T``, H in Kronecker factors, in float32."""

    def __init__(self, basis: Basis, scales: torch.Tensor) -> None:
        """Take over the basis H and the scales d, float32 ``[hidden_size]``."""
        super().__init__()
        back = Basis(basis.name, tuple(factor.T for factor in basis.factors), basis.divisor)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self._rotate = Rotation(basis, scales.device)
        self._rotate_back = Rotation(back, scales.device)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states ``[..., hidden_size]`` to ones of the same shape and dtype."""
        return self._rotate_back(self._rotate(hidden.float()) * self.scales).to(hidden.dtype)


class FeedForward(nn.Module):
    """LLM-Streamline's network beside the stream, as the recovery ``streamline_ffn`` builds it.

    Unlike that one it computes in the dtype of the model, as a stock network does.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        """Take over gate, up and down projection, ``[3, hidden_size, intermediate_size]``."""
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Parameter(part.clone(), requires_grad=False) for part in weight
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states ``[..., hidden_size]`` to ones of the same shape and dtype."""
        square = hidden.square().mean(dim=-1, keepdim=True)
        rows = hidden * torch.rsqrt(square + RMS_EPSILON)
        return hidden + (nn.functional.silu(rows @ self.gate) * (rows @ self.up)) @ self.down.T


class PhaseWorks(NamedTuple):
    """What a decoder layer has to do in the two phases of generating text.

    Attributes:
        prefill: Hidden states ``[batch, length, hidden_size]``, and the call of the layer on them.
        decode: Those of one more token, ``[batch, 1, hidden_size]``, and the same.
    """

    prefill: tuple[torch.Tensor, Work]
    decode: tuple[torch.Tensor, Work]


class Measured(NamedTuple):
    """What :func:`measure_operations` returns.

    Attributes:
        operations: By name.
        repetitions: Turns that were timed.
        layer: Number of the decoder layer in the dense model.
        basis: Name of the rotation.
    """

    operations: dict[OperationName, OperationFacts]
    repetitions: dict[str, int]
    layer: int
    basis: str


def most_tokens(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model takes, None where its config does not say."""
    most: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most


def phase_works(model: PreTrainedModel, batch: int, length: int, seed: int) -> PhaseWorks:
    """Record how a model with one decoder layer calls it, for windows and for one more token.

    Args:
        model: A model of a known family, cut to one layer.
        batch: Windows that run together.
        length: Tokens of each.
        seed: Seed of the tokens.

    Raises:
        LpstepsError: The model takes fewer tokens.
    """
    config = model.config.get_text_config()
    most = most_tokens(model)
    if most is not None and length >= most:
        raise LpstepsError(f"length: {length}: must be less than the {most} tokens of the model")
    decoder = decoder_of(model)
    (layer,) = decoder.layers
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size, (batch, length + 1), generator=generator)
    tokens = tokens.to(model.device)
    calls: list[tuple[torch.Tensor, LayerCall]] = []

    def keep(_: int, hidden: torch.Tensor, call: LayerCall) -> None:
        calls.append((hidden, call))

    with watching_calls([layer], keep):
        decoder.backbone(input_ids=tokens[:, :length], use_cache=False)
        filled = decoder.backbone(input_ids=tokens[:, :length], use_cache=True).past_key_values
        passed = copy.deepcopy(filled)
        decoder.backbone(input_ids=tokens[:, length:], past_key_values=passed, use_cache=True)
    (windows, prefill), _, (token, decode) = calls

    def decode_with_own_cache() -> LayerCall:
        # A layer appends to the cache that it gets, so each call needs one of its own.
        own = copy.deepcopy(filled)
        return LayerCall(
            tuple(own if value is passed else value for value in decode.positional),
            {name: own if value is passed else value for name, value in decode.named.items()},
        )

    return PhaseWorks(
        prefill=(windows, Work(lambda: prefill, lambda call: call.run(layer, windows))),
        decode=(token, Work(decode_with_own_cache, lambda call: call.run(layer, token))),
    )


def compared_operations(
    layer: nn.Module, hidden_size: int, dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[dict[OperationName, nn.Module], dict[OperationName, int], str]:
    """Build everything that is compared.

    Args:
        layer: A decoder layer of the model.
        hidden_size: Channels of the residual stream.
        dtype: What the model computes in.
        device: Where it runs.
        seed: Seed of the weights.

    Returns:
        The modules, their floating-point operations for one token, and the name of the rotation.
    """
    generator = np.random.default_rng(seed)
    basis = basis_matrix(hidden_size)
    scales = generator.uniform(0.5, 1.5, hidden_size)
    width = branch_outputs(layer).mlp.in_features
    weight = generator.standard_normal((3, hidden_size, width)) / np.sqrt(hidden_size)
    matrix = Operation("matrix", patch_matrix(basis.matrix, scales))
    modules: dict[OperationName, nn.Module] = {
        "patch": Patch(GapPatch(0, 1, (matrix,))),
        "patch-rotated": RotatedScales(
            basis, torch.tensor(scales, dtype=torch.float32, device=device)
        ),
        "ffn": FeedForward(torch.tensor(weight, dtype=dtype)),
        "layer": layer,
    }
    turns = 2 * sum(len(factor) for factor in basis.factors)
    flops: dict[OperationName, int] = {
        "patch": operation_flops("matrix", matrix.weight.shape, hidden_size),
        "patch-rotated": 2 * hidden_size * turns + hidden_size,
        "ffn": operation_flops("gated_mlp", weight.shape, hidden_size),
        "layer": layer_flops([parameter.shape for parameter in layer.parameters()]),
    }
    return {name: module.to(device) for name, module in modules.items()}, flops, basis.name


def measure_operations(
    model: PreTrainedModel,
    *,
    device: torch.device | None = None,
    batch: int,
    length: int,
    repetitions: int,
    seconds: float,
    seed: int,
    timer: Callable[..., dict[str, list[float]]] = time_in_turns,
) -> Measured:
    """Count and time everything that is compared, in the model's dtype.

    Args:
        model: The dense model on one device; it is cut to its middle layer, in place.
        device: Where to measure; where the model is by default.
        batch: Windows that run together.
        length: Tokens of each.
        repetitions: Turns to time, of the prefill and of the decoding.
        seconds: Time for either, after which no further turn begins.
        seed: Seed of tokens and weights.
        timer: Times works in turns.

    Raises:
        LpstepsError: The family is unknown, or the model takes fewer tokens.
    """
    count = len(decoder_of(model).layers)
    middle = count // 2
    others = tuple(number for number in range(count) if number != middle)
    apply_plan(model, Plan.removing(count, others))
    if device is not None:
        model.to(device)
    layer = decoder_of(model).layers[0]
    hidden_size = model.config.get_text_config().hidden_size
    modules, flops, basis = compared_operations(layer, hidden_size, model.dtype, model.device, seed)

    def wait() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    with torch.inference_mode():
        works = phase_works(model, batch, length, seed)
        times = {
            phase: timer(
                _works(modules, hidden, work),
                repetitions=repetitions,
                seconds=seconds,
                wait=wait,
            )
            for phase, (hidden, work) in works._asdict().items()
        }
    parameters = {
        name: sum(weight.numel() for weight in module.parameters())
        for name, module in modules.items()
    }
    return Measured(
        {
            name: OperationFacts(
                parameters=parameters[name],
                flops=flops[name],
                prefill_ms=Spread.over(times["prefill"][name]),
                decode_ms=Spread.over(times["decode"][name]),
                relative=Relative(
                    parameters=parameters[name] / parameters["patch"],
                    flops=flops[name] / flops["patch"],
                    prefill=_relative(times["prefill"], name),
                    decode=_relative(times["decode"], name),
                ),
            )
            for name in modules
        },
        {phase: len(found["patch"]) for phase, found in times.items()},
        middle,
        basis,
    )


def _works(
    modules: Mapping[OperationName, nn.Module], hidden: torch.Tensor, layer: Work
) -> dict[str, Work]:
    works: dict[str, Work] = {}
    for name, module in modules.items():
        works[name] = layer if name == "layer" else Work(lambda: hidden, module)
    return works


def _relative(times: Mapping[str, list[float]], name: str) -> Spread:
    return Spread.over(
        [own / patch for own, patch in zip(times[name], times["patch"], strict=True)]
    )
