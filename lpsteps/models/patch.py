"""The module that stands in for removed layers."""

from __future__ import annotations

import torch
from torch import nn

from lpsteps.patches import GapPatch, OperationKind

RMS_EPSILON = 1e-6


class Patch(nn.Module):
    """A chain of operations on the rows of the residual stream.

    It computes in float32 whatever the model's dtype is, also under autocast, and returns the dtype
    of its input. The weights are parameters that do not require a gradient.
    """

    def __init__(self, gap: GapPatch) -> None:
        """Take over the operations of one gap; weights are stored as float32."""
        super().__init__()
        self.kinds = tuple(operation.kind for operation in gap.operations)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.tensor(operation.weight, dtype=torch.float32), requires_grad=False)
            for operation in gap.operations
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states `[..., hidden_size]` to patched ones of the same shape and dtype."""
        if not self.kinds:
            return hidden
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            rows = hidden.to(device=self.weights[0].device, dtype=torch.float32)
            for kind, weight in zip(self.kinds, self.weights, strict=True):
                rows = _operate(kind, weight, rows)
        return rows.to(hidden)


def _operate(kind: OperationKind, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    match kind:
        case "scalar" | "scale":
            return rows * weight
        case "matrix" | "rotation":
            return rows @ weight
        case "shift":
            return rows + weight
        case "low_rank":
            return rows + (rows @ weight[0]) @ weight[1].T
        case "gated_mlp":
            square = rows.square().mean(dim=-1, keepdim=True)
            normalised = rows * torch.rsqrt(square + RMS_EPSILON)
            gate = nn.functional.silu(normalised @ weight[0])
            return rows + (gate * (normalised @ weight[1])) @ weight[2].T
