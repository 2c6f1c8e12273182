"""Where each model family keeps its decoder layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.models.families import LAYOUTS, USUAL_LAYOUTS, Layout, is_tested
from lpsteps.models.layer_calls import watching_calls

# Tokens on which the head of an untested family is checked.
_TOKENS = 8


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

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the backbone's parameters under the names that patches give them.

        These are the names relative to the backbone, with the layers called ``layers.{number}.``
        whatever the family calls them (``h`` in BLOOM and Falcon).
        """
        (own,) = (name for name, module in self.backbone.named_modules() if module is self.layers)
        prefix = f"{own}."
        return {
            f"layers.{name.removeprefix(prefix)}" if name.startswith(prefix) else name: parameter
            for name, parameter in self.backbone.named_parameters()
        }

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
        LpstepsError: The parts of an unknown family are not where families usually keep them, or
            its layers do not end in a norm.
    """
    layout = _layout_of(model)
    backbone = model.get_submodule(layout.backbone)
    norm = getattr(backbone, layout.norm)
    if norm is None:
        raise LpstepsError(
            f"model_type: {model.config.model_type}: this model has no final norm (as OPT-350m); "
            "only a model whose last layer is followed by a norm can be pruned"
        )
    return Decoder(
        backbone=backbone,
        layers=cast(nn.ModuleList, backbone.get_submodule(layout.layers)),
        norm=norm,
        lm_head=cast(nn.Module, model.get_output_embeddings()),
        logit_cap=getattr(model.config, "final_logit_softcapping", None),
    )


def _layout_of(model: PreTrainedModel) -> Layout:
    family = model.config.model_type
    if family in LAYOUTS:
        return LAYOUTS[family]
    modules = dict(model.named_modules())
    for layout in USUAL_LAYOUTS:
        layers = modules.get(f"{layout.backbone}.{layout.layers}")
        norm = modules.get(f"{layout.backbone}.{layout.norm}")
        if isinstance(layers, nn.ModuleList) and norm is not None:
            return layout
    places = ", ".join(
        f"{layout.backbone}.{layout.layers} and .{layout.norm}" for layout in USUAL_LAYOUTS
    )
    raise LpstepsError(
        f"model_type: {family}: no decoder layers with a final norm at a usual place ({places}); "
        "name their place in lpsteps/models/families.py"
    )


def check_head(model: PreTrainedModel) -> None:
    """Check, by running a few tokens, that a model is a chain of layers, a norm and a head.

    The tested families are known to be so. Others may scale or shift their logits outside the head,
    or call their final norm in front of the layers, too (NanoChat).

    Raises:
        LpstepsError: The logits are not what the head makes of the norm, or the layers and the norm
            are not called once each, in their order.
    """
    if is_tested(model.config.model_type):
        return
    decoder = decoder_of(model)
    tokens = torch.arange(_TOKENS, device=model.device)[None]
    called: list[int] = []
    chain = [*decoder.layers, decoder.norm]
    with torch.inference_mode(), watching_calls(chain, lambda place, *_: called.append(place)):
        hidden = decoder.backbone(input_ids=tokens, use_cache=False).last_hidden_state
        logits = decoder.logits(hidden)
        expected = model(input_ids=tokens, use_cache=False).logits.to(logits.dtype)
    if called != 2 * [*range(len(chain))]:
        raise LpstepsError(
            f"model_type: {model.config.model_type}: its layers and its final norm are not called "
            "once each, one after the other, so that what stands between them is not the input of "
            "the next; take a model of another family"
        )
    if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3):
        raise LpstepsError(
            f"model_type: {model.config.model_type}: its logits are not those of its "
            "language-model head on its final norm; what stands in between has to be added to "
            "lpsteps/models/layers.py"
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


_GATED = ("self_attn.o_proj", "mlp.down_proj")

# By the class of the layer: a module of such a name may be scaled or normed on its way to the
# stream in a family that nobody has looked at.
_BRANCH_OUTPUTS = {
    "DecoderLayer": _GATED,  # Baichuan
    "Gemma2DecoderLayer": _GATED,
    "Gemma3DecoderLayer": _GATED,
    "GPTNeoXLayer": ("attention.dense", "mlp.dense_4h_to_h"),
    "LlamaDecoderLayer": _GATED,
    "MistralDecoderLayer": _GATED,
    "OPTDecoderLayer": ("self_attn.out_proj", "fc2"),
    "Olmo2DecoderLayer": _GATED,
    "Phi3DecoderLayer": _GATED,
    "Qwen2DecoderLayer": _GATED,
    "Qwen3DecoderLayer": _GATED,
}


def branch_outputs(layer: nn.Module) -> BranchOutputs:
    """Return the linear modules with which a decoder layer writes to the residual stream.

    Args:
        layer: A layer of one of the known families.

    Raises:
        LpstepsError: They are not known for this class of layers.
    """
    names = _BRANCH_OUTPUTS.get(type(layer).__name__)
    if names is None:
        raise LpstepsError(
            f"layer: {type(layer).__name__}: no output projections are known for this class; "
            "choose a repair that leaves them alone, such as linearpatch, or name them in "
            "lpsteps/models/layers.py"
        )
    attention, mlp = (layer.get_submodule(name) for name in names)
    return BranchOutputs(
        attention=cast(nn.Linear, attention),
        mlp=cast(nn.Linear, mlp),
        normalised="post_feedforward_layernorm" in dict(layer.named_children()),
    )
