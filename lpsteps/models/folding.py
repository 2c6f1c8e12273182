"""Folding patches into the weights, so that a pruned model runs in its stock architecture.

A norm forgets the scale of the row that it reads. So a patch that only rescales the residual stream
need not be computed: the stream keeps its old units, and everything that is added to it behind the
gap is divided by the scale instead. Prune&Comp (https://arxiv.org/abs/2507.18212) folds the same
scalar into the layers in front of the gap and the embedding; folding it behind the gap gives the
same function, and works with an embedding that is tied to the language-model head.

An RMSNorm without weights also commutes with a rotation of the channels (SliceGPT,
https://arxiv.org/abs/2401.15024, section 3; QuaRot, https://arxiv.org/abs/2404.00456, section 3).
So behind a gap with the patch ``x @ (c Q)`` the stream keeps its old axes: what reads it is
rotated by Q, what writes to it by ``Q^T / c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.families import LAYOUTS, NOT_WORKED_OUT, Layout
from lpsteps.models.layers import branch_outputs, decoder_of
from lpsteps.models.surgery import apply_plan, check_plan, surviving_layers
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan


@dataclass(frozen=True, eq=False)
class _Frame:
    """Rows of the patched model's stream are ``scale * row @ rotation`` of the folded model's."""

    scale: float = 1.0
    rotation: npt.NDArray[np.float64] | None = None

    def behind(self, operation: Operation) -> _Frame:
        """Return the frame behind an operation that the folded model leaves out."""
        factor = _factor(operation)
        if operation.kind == "scalar":
            return _Frame(self.scale * factor, self.rotation)
        rotation = operation.weight.astype(np.float64) / factor
        if self.rotation is not None:
            rotation = self.rotation @ rotation
        return _Frame(self.scale * factor, rotation)


def _factor(operation: Operation) -> float:
    """Return by what a scalar or a rotation lengthens the stream."""
    if operation.kind == "scalar":
        return float(operation.weight[0])
    weight = operation.weight.astype(np.float64)
    return float(np.sqrt(np.square(weight).sum() / len(weight)))


@torch.no_grad()
def fold_patches(model: PreTrainedModel, plan: Plan, patches: PatchSet) -> None:
    """Prune `model` in place and fold the patches into its weights.

    The result has no module that the stock architecture lacks, so it can be saved and loaded as
    any model, and its logits equal those after `apply_plan(model, plan, patches)` but for

    *   the epsilon of the norms. Behind gaps whose scales multiply to c, the stream is smaller by
        the factor c, so a norm computes ``x / sqrt(mean(x^2) + c^2 epsilon)``: its output is off
        by about ``(c^2 - 1) epsilon / (2 mean(x^2))``, relatively. A config holds one epsilon for
        all layers, so this is not compensated; it matters only where the stream is as small as
        ``sqrt(epsilon)``, in practice for a gap right behind the embedding;
    *   rounding to the dtype of the parameters, computed in float64 before. A patch computes in
        float32 also in a bfloat16 model, a folded one is rounded like every other weight.

    A scalar can be folded in every family of :data:`~lpsteps.models.families.LAYOUTS`; of others it
    is not known what their layers write to the stream. Where norms follow the branches (Gemma 2 and
    3, OLMo 2) their weights are divided instead, and where no norm stands in front of them (OLMo 2)
    the projections that read the stream are multiplied, which is exact whatever the epsilon.

    A rotation needs an RMSNorm in front of the branches and no norm behind them. It also changes
    the language-model head, which is untied from the embedding (`config.tie_word_embeddings`).

    Args:
        model: A dense causal language model of a known family.
        plan: Which layers to remove.
        patches: Patches of scalars and rotations; replacements and restored layers are applied.

    Raises:
        LpstepsError: An operation cannot be folded, at all or in this family, or the plan or the
            patches do not belong to the model, as `check_plan` says. The model is then untouched.
    """
    family = model.config.model_type
    check_plan(model, plan, patches)
    obstacle = folding_obstacle(patches, family)
    if obstacle is not None:
        raise LpstepsError(obstacle)
    if any(gap.operations for gap in patches.gaps):
        # Before anything changes: a model with code of its own may have other layers than the rest
        # of its family.
        for dense_layer in decoder_of(model).layers:
            branch_outputs(dense_layer)
    survivors = surviving_layers(plan, patches)
    apply_plan(model, plan, PatchSet(replacements=patches.replacements, restored=patches.restored))
    decoder = decoder_of(model)
    operations = {gap.end: gap.operations for gap in patches.gaps}
    layers = dict(zip(survivors, decoder.layers, strict=True))
    frame = _Frame()
    for entrance in range(plan.n_layers + 1):
        for operation in operations.get(entrance, ()):
            frame = frame.behind(operation)
        layer = layers.get(entrance)
        if layer is not None and frame.rotation is not None:
            _rotate_layer(layer, frame.scale, frame.rotation)
        elif layer is not None and frame.scale != 1.0:
            _rescale_layer(layer, frame.scale, LAYOUTS[family])
    if frame.rotation is not None:
        _rotate_head(model, frame.rotation)


def folding_obstacle(patches: PatchSet, family: str) -> str | None:
    """Return why patches cannot be folded into a stock architecture; None where they can.

    Args:
        patches: The patches.
        family: The model's `config.model_type`.
    """
    obstacles = (_gap_obstacle(gap, family) for gap in patches.gaps)
    return next((obstacle for obstacle in obstacles if obstacle is not None), None)


def epsilon_error(
    epsilon: float, variances: Sequence[float], plan: Plan, patches: PatchSet
) -> float:
    """Return how far epsilon sets a norm of the folded model apart from the same one before.

    It is ``|c^2 - 1| epsilon / (2 v)``, as :func:`fold_patches` says, where that is largest.

    Args:
        epsilon: Of the norms.
        variances: The smallest variance v of a token, over its channels, at each boundary of the
            patched model, behind its patches.
        plan: Which layers were removed.
        patches: Foldable patches of its gaps.
    """
    entrances = [*surviving_layers(plan, patches), plan.n_layers]
    largest = 0.0
    for entrance, variance in zip(entrances, variances, strict=True):
        passed = [gap for gap in patches.gaps if gap.end <= entrance]
        scale = np.prod([_factor(each) for gap in passed for each in gap.operations])
        error = abs(scale**2 - 1.0) * epsilon / 2.0
        if error:
            largest = max(largest, float(error / variance) if variance else np.inf)
    return largest


def _gap_obstacle(gap: GapPatch, family: str) -> str | None:
    for operation in gap.operations:
        subject = f"patch: [{gap.start}, {gap.end}): {operation.kind}"
        if operation.kind not in ("scalar", "rotation"):
            return (
                f"{subject}: cannot be folded into a stock architecture; only scalar and rotation "
                "can"
            )
        if operation.kind == "scalar" and family not in LAYOUTS:
            return (
                f"{subject}: cannot be folded into {family}: what its layers write to the stream "
                f"is not known; possible for {', '.join(LAYOUTS)}"
            )
        layout = LAYOUTS.get(family, Layout(rotation_obstacle=NOT_WORKED_OUT))
        if operation.kind == "rotation" and layout.rotation_obstacle is not None:
            possible = [name for name, other in LAYOUTS.items() if other.rotation_obstacle is None]
            return (
                f"{subject}: cannot be folded into {family}: {layout.rotation_obstacle}; possible "
                f"for {', '.join(possible)}"
            )
    return None


def _rescale_layer(layer: nn.Module, scale: float, layout: Layout) -> None:
    outputs = branch_outputs(layer)
    if outputs.normalised:
        offset = 1.0 if layout.offset_norms else 0.0
        for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
            weight = layer.get_parameter(f"{name}.weight")
            weight.copy_((weight.double() + offset) / scale - offset)
    else:
        for linear in (outputs.attention, outputs.mlp):
            for parameter in linear.parameters():
                parameter.copy_(parameter.double() / scale)
    if layout.bare_inputs:
        for linear in _inputs(layer, "self_attn") + _inputs(layer, "mlp"):
            linear.weight.copy_(linear.weight.double() * scale)


def _rotate_layer(layer: nn.Module, scale: float, rotation: npt.NDArray[np.float64]) -> None:
    for norm_name, branch in (
        ("input_layernorm", "self_attn"),
        ("post_attention_layernorm", "mlp"),
    ):
        gain = layer.get_parameter(f"{norm_name}.weight")
        for linear in _inputs(layer, branch):
            linear.weight.copy_(_rotated_reader(linear.weight, gain, rotation))
        gain.fill_(1.0)
    outputs = branch_outputs(layer)
    for linear in (outputs.attention, outputs.mlp):
        # Rows of outputs get `@ Q^T / c`; torch keeps a weight as [outputs, inputs].
        inverse = torch.tensor(rotation / scale, device=linear.weight.device)
        linear.weight.copy_(inverse @ linear.weight.double())
        if linear.bias is not None:
            linear.bias.copy_(inverse @ linear.bias.double())


def _rotate_head(model: PreTrainedModel, rotation: npt.NDArray[np.float64]) -> None:
    decoder = decoder_of(model)
    gain = decoder.norm.get_parameter("weight")
    head = decoder.lm_head
    weight = head.get_parameter("weight")
    rotated = _rotated_reader(weight, gain, rotation).to(weight.dtype)
    head.weight = nn.Parameter(rotated, requires_grad=weight.requires_grad)
    model.config.tie_word_embeddings = False
    gain.fill_(1.0)


def _rotated_reader(
    weight: torch.Tensor, gain: torch.Tensor, rotation: npt.NDArray[np.float64]
) -> torch.Tensor:
    """Return ``W diag(gain) Q^T`` of a linear module behind a norm, float64."""
    return weight.double() * gain.double() @ torch.tensor(rotation.T, device=weight.device)


def _inputs(layer: nn.Module, branch: str) -> list[nn.Linear]:
    """Return the linear modules of a branch that read the residual stream."""
    names = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")
    children = dict(layer.get_submodule(branch).named_children())
    return [child for name in names if isinstance(child := children.get(name), nn.Linear)]
