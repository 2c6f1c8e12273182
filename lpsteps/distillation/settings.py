"""What a distillation does, apart from where it starts and which text it reads.

The defaults are those of LinearPatch's optional fine-tuning (arXiv 2505.24680, section 3.4 and its
released code): the full matrix, the teacher's 100 most probable tokens, renormalised, AdamW with a
cosine decay to a twentieth of the learning rate, one epoch, one sequence per step.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Objective = Literal["logits_kl", "feature_mse"]
Parametrisation = Literal["full", "symmetric", "diagonal", "low_rank", "scalar", "own"]

# From here on the stored targets and hidden states repay the pass that makes them: for one epoch
# storing takes about as long as it saves, for two the whole is about 1.4 times faster.
_OFFLINE_EPOCHS = 2


class DistillationSettings(BaseModel):
    """Objective, parameters, optimiser and mode of a distillation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Objective = Field(
        default="logits_kl",
        description="Kullback-Leibler divergence of the next-token distributions, or mean squared "
        "error of the hidden states behind each gap",
    )
    top_k: int | None = Field(
        default=100,
        ge=1,
        description="Outcomes per position: the teacher's most probable tokens; null for the whole "
        "vocabulary",
    )
    tail: bool = Field(
        default=False,
        description="One more outcome for the tokens outside the K; without it both distributions "
        "are renormalised over the K",
    )
    parametrisation: Parametrisation = Field(
        default="full",
        description="What is trained: a matrix, a symmetric matrix, scales in the Hadamard basis, "
        "a low-rank update of the start, a factor of it, or, with own, the start's operations and "
        "restored layers, while weights that it replaced in surviving layers stay as they are",
    )
    rank: int = Field(default=16, ge=1, description="Rank of the low-rank update")
    windows: int | None = Field(
        default=None, ge=1, description="Windows of the shuffled text, the first ones; null for all"
    )
    epochs: int = Field(default=1, ge=1, description="Passes over the text")
    batch: int = Field(default=1, ge=1, description="Sequences per optimiser step")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Sequences per pass through the model, whose gradients accumulate; must divide "
        "batch; null for the whole batch",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="Highest learning rate")
    final_learning_rate_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of it that the cosine decays to"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="Decoupled weight decay")
    decay_towards: Literal["zero", "start"] = Field(
        default="zero", description="What the weights decay to"
    )
    clip: float | None = Field(
        default=None, gt=0, description="Largest norm of the gradient; null for any"
    )
    evaluations: int = Field(
        default=4,
        ge=1,
        description="Measurements of the held-out divergence per epoch, besides the first",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Measurements without a better one after which it stops; null for never",
    )
    checkpoint_every: int = Field(
        default=50, ge=1, description="Optimiser steps between checkpoints"
    )
    mode: Literal["auto", "fused", "offline"] = Field(
        default="auto",
        description="Teacher and student in one pass, or stored targets; auto takes the faster one",
    )
    store_hidden: bool = Field(
        default=True,
        description="Offline: also store the hidden states where teacher and student part, so that "
        "the layers in front of them never run again",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Recompute each layer in the backward pass instead of keeping its activations",
    )

    @field_validator("tail")
    @classmethod
    def _tail_has_a_rest(cls, tail: bool, info: ValidationInfo) -> bool:
        if tail and info.data.get("objective") == "feature_mse":
            raise ValueError("true: only objective logits_kl has outcomes; leave it out")
        if tail and info.data.get("top_k", 1) is None:
            raise ValueError("true: with top_k null no token is left over; give top_k a number")
        return tail

    @field_validator("micro_batch")
    @classmethod
    def _divides_the_batch(cls, micro_batch: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch")
        if micro_batch is not None and batch is not None and batch % micro_batch:
            raise ValueError(f"{micro_batch}: must divide batch, which is {batch}")
        return micro_batch

    @field_validator("mode")
    @classmethod
    def _has_targets_to_store(cls, mode: str, info: ValidationInfo) -> str:
        if mode == "offline" and info.data.get("objective") == "feature_mse":
            raise ValueError("offline: objective feature_mse stores no targets; use fused or auto")
        if mode == "offline" and info.data.get("top_k", 1) is None:
            raise ValueError(
                "offline: with top_k null a position's targets are as large as the vocabulary; "
                "give top_k a number, or use fused or auto"
            )
        return mode

    def resolved_mode(self) -> Literal["fused", "offline"]:
        """Return the mode: the chosen one, or the faster one for the number of epochs.

        Storing costs a pass over the text that later epochs do not need, so ``auto`` is offline
        from two epochs on. Only the K outcomes of ``logits_kl`` can be stored.
        """
        if self.mode != "auto":
            return self.mode
        stored = self.objective == "logits_kl" and self.top_k is not None
        return "offline" if stored and self.epochs >= _OFFLINE_EPOCHS else "fused"
