"""Where each model family keeps its decoder layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError, nearest


@dataclass(frozen=True)
class _Layout:
    """Attribute paths: the backbone from the model, the final norm from the backbone."""

    backbone: str = "model"
    norm: str = "norm"


# By `config.model_type`. A new family with Llama's layout is one more line here; the test suite
# runs every family that is named in `tests/conftest.py`.
_LAYOUTS = {
    "gemma2": _Layout(),
    "gemma3_text": _Layout(),
    "gpt_neox": _Layout(backbone="gpt_neox", norm="final_layer_norm"),
    "llama": _Layout(),
    "mistral": _Layout(),
    "olmo2": _Layout(),
    "opt": _Layout(backbone="model.decoder", norm="final_layer_norm"),
    "phi3": _Layout(),
    "qwen2": _Layout(),
    "qwen3": _Layout(),
}


@dataclass(frozen=True, eq=False)
class Decoder:
    """The parts of a causal language model; all are the model's own modules, not copies.

    Attributes:
        backbone: Token ids to normalised hidden states; everything but the language-model head.
        layers: The decoder layers, first to last.
        norm: The final norm, which reads the output of the last layer.
        lm_head: Normalised hidden states to logits.
        logit_cap: Bound of the soft-capped logits (Gemma 2), None elsewhere.
    """

    backbone: nn.Module
    layers: nn.ModuleList
    norm: nn.Module
    lm_head: nn.Module
    logit_cap: float | None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of normalised hidden states, as the whole model would.

        Args:
            hidden: Output of the backbone, or any part of it, `[..., hidden_size]`.

        Returns:
            Logits `[..., vocabulary]` in the dtype of the model.
        """
        logits = cast(torch.Tensor, self.lm_head(hidden))
        if self.logit_cap is not None:
            logits = torch.tanh(logits / self.logit_cap) * self.logit_cap
        return logits


def decoder_of(model: PreTrainedModel) -> Decoder:
    """Return the backbone, layers, norm and head of a model.

    Raises:
        LpstepsError: The family is unknown, or its layers do not end in a norm.
    """
    family = model.config.model_type
    if family not in _LAYOUTS:
        raise LpstepsError(f"model_type: {family}: {nearest(family, _LAYOUTS)}")
    layout = _LAYOUTS[family]
    backbone = model.get_submodule(layout.backbone)
    norm = getattr(backbone, layout.norm)
    if norm is None:
        raise LpstepsError(
            f"model_type: {family}: this model has no final norm (as OPT-350m); "
            "only a model whose last layer is followed by a norm can be pruned"
        )
    return Decoder(
        backbone=backbone,
        layers=cast(nn.ModuleList, backbone.get_submodule("layers")),
        norm=norm,
        lm_head=cast(nn.Module, model.get_output_embeddings()),
        logit_cap=getattr(model.config, "final_logit_softcapping", None),
    )


@dataclass(frozen=True, eq=False)
class BranchOutputs:
    """The linear modules of one decoder layer whose outputs are added to the residual stream.

    Attributes:
        attention: Output projection of the attention.
        mlp: Output projection of the MLP.
        normalised: Whether a norm follows each of them in front of the stream (Gemma 2 and 3,
            OLMo 2), so that their own scale has no effect.
    """

    attention: nn.Linear
    mlp: nn.Linear
    normalised: bool


_BRANCH_OUTPUTS = (
    ("self_attn.o_proj", "mlp.down_proj"),
    ("attention.dense", "mlp.dense_4h_to_h"),
    ("self_attn.out_proj", "fc2"),
)


def branch_outputs(layer: nn.Module) -> BranchOutputs:
    """Return the linear modules with which a decoder layer writes to the residual stream.

    Args:
        layer: A layer of one of the known families.

    Raises:
        LpstepsError: The layer has no such modules under any known name.
    """
    modules = dict(layer.named_modules())
    for attention, mlp in _BRANCH_OUTPUTS:
        if attention in modules and mlp in modules:
            return BranchOutputs(
                attention=cast(nn.Linear, modules[attention]),
                mlp=cast(nn.Linear, modules[mlp]),
                normalised="post_feedforward_layernorm" in modules,
            )
    raise LpstepsError(
        f"layer: {type(layer).__name__}: no output projections under the names of a known family"
    )
