"""LoRA healing: train low-rank updates of the pruned model on text, then merge them.

This is the usual way to heal a model whose layers were cut out (Shortened LLaMA, arXiv 2402.02834;
LLM-Pruner, arXiv 2305.11627): adapters on all linear projections of the remaining layers, trained
to predict the next token. The merged model has the architecture of the dense one. It is not a
repair of the cut alone: it also adapts the model to its training text.

The released code of Shortened LLaMA trains on instructions, cut off at 256 tokens, of which the
prompts do not count in the loss, with an optimiser step per 64 of them, accumulated over
micro-batches of 4. Here every token of the calibration text counts and ``batch`` is the whole batch
of a step, because a short text would otherwise give hardly any steps; the learning rate has no
warm-up and decays to zero along a cosine, and the epoch with the least held-out loss is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt
from pydantic import Field

from lpsteps.errors import LpstepsError
from lpsteps.patches import PatchSet
from lpsteps.recovery.base import Need, RecoveryContext
from lpsteps.training import (
    AdamW,
    LossCurve,
    TrainingParams,
    TrainingText,
    train_on_text,
    training_text,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from lpsteps.plan import Plan

TITLE: Final = "LoRA healing"
PAPER: Final = "https://arxiv.org/abs/2402.02834"
NEEDS: Final[frozenset[Need]] = frozenset({"model"})
COUNTS_EVERY_TOKEN: Final = True

# Families whose projections, or experts, are no linear modules in transformers.
_NOT_LINEAR = frozenset(
    {"deepseek_v3", "gpt2", "gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"}
)

# Of the weights in the layers that adapters reach; a row with less would not be what its name says.
_LEAST_SHARE = 0.5


class Params(TrainingParams):
    """Parameters of the adapters.

    Rank, alpha, dropout, learning rate and epochs are by default those of Shortened LLaMA's
    released code.
    """

    epochs: int = Field(default=2, ge=1, description="Passes over the text")
    batch: int = Field(default=4, ge=1, description="Sequences per step")
    learning_rate: float = Field(default=1e-4, gt=0, description="Highest learning rate")
    rank: int = Field(default=8, ge=1, description="Rank of each update")
    alpha: int = Field(default=16, ge=1, description="Updates are scaled by alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout in front of an update")


def unsuited(params: Params, n: int, family: str | None) -> str | None:
    """Return why the layers of a family cannot be adapted, or None where they can."""
    if family in _NOT_LINEAR:
        return f"adapts linear modules, of which the layers of {family} have few"
    return None


def healed_weights(
    model: PreTrainedModel, plan: Plan, text: TrainingText, params: Params, *, seed: int
) -> tuple[dict[str, npt.NDArray[Any]], LossCurve]:
    """Prune a model, heal it and return the weights that changed, and how the training went.

    Args:
        model: The dense model; it is pruned and changed.
        plan: The layers to remove.
        text: What to train on.
        params: Adapters, epochs, batch and learning rate.
        seed: Seed of the adapters, of the order of the sequences and of the dropout.

    Returns:
        Merged weights, float32, by the names of
        :attr:`PatchSet.replacements <lpsteps.patches.PatchSet.replacements>`.

    Raises:
        LpstepsError: peft is not installed, most weights of the layers are not in linear modules,
            or the loss is not a finite number.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from lpsteps.models.layers import decoder_of
    from lpsteps.models.surgery import apply_plan

    decoder = decoder_of(model)
    linear = {
        module.weight for module in decoder.layers.modules() if isinstance(module, torch.nn.Linear)
    }
    matrices = sum(weight.numel() for weight in decoder.layers.parameters() if weight.dim() > 1)
    share = sum(weight.numel() for weight in linear) / matrices
    if share < _LEAST_SHARE:
        raise LpstepsError(
            f"model_type: {model.config.model_type}: recovery lora adapts linear modules, which "
            f"have {share:.0%} of the weights in the layers of this model (the projections of "
            "GPT-2 and the experts of mixtures are no such modules); choose a recovery that leaves "
            "the projections alone, such as linearpatch"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise LpstepsError(
            "recovery: lora: needs the package peft; install it with: pip install -e '.[lora]'"
        ) from error

    apply_plan(model, plan)
    survivors = [layer for layer in range(plan.n_layers) if layer not in plan.layers]
    projections = [
        name
        for name, module in decoder.layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    torch.manual_seed(seed)
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=projections,
    )
    inject_adapter_in_model(config, decoder.layers)
    adapted: dict[str, Any] = {
        name: module
        for name, module in decoder.layers.named_modules()
        if isinstance(module, LoraLayer)
    }
    # The rest of the model stays in evaluation mode: only the adapters drop anything.
    decoder.layers.eval()
    adapters = [parameter for parameter in decoder.layers.parameters() if parameter.requires_grad]
    for parameter in adapters:
        parameter.data = parameter.data.float()

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.to(model.device)
        hidden = decoder.backbone(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        logits = decoder.logits(hidden).float()
        return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    curve = train_on_text(
        adapters,
        loss,
        text,
        params,
        AdamW(params.learning_rate, final_learning_rate=0.0),
        seed=seed,
        description="LoRA healing",
        dropouts=[
            dropout for module in adapted.values() for dropout in module.lora_dropout.values()
        ],
    )
    weights = {}
    for name, module in adapted.items():
        layer, _, path = name.partition(".")
        base = module.get_base_layer().weight.detach().float()
        merged = base + module.get_delta_weight("default").detach().float()
        weights[f"layers.{survivors[int(layer)]}.{path}.weight"] = merged.cpu().numpy()
    return weights, curve


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Heal the pruned model; the patch set replaces every projection of the remaining layers.

    Raises:
        LpstepsError: peft is not installed, most weights are not in linear modules, there is not
            enough text, or a loss is not finite.
    """
    source = context.needed_model()
    text = training_text(source.windows, params, bos_in_windows=context.bos_in_windows)
    weights, curve = healed_weights(source.load(), context.plan, text, params, seed=context.seed)
    return PatchSet(audit=curve.audit("lora"), replacements=weights)
