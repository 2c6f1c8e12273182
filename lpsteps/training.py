"""One deterministic training loop for the repairs that are trained on calibration text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.calibration_text import heldout_windows
from lpsteps.errors import LpstepsError
from lpsteps.progress import track

if TYPE_CHECKING:
    import torch
    from torch import nn

Tokens = npt.NDArray[np.int64]
Curve = npt.NDArray[np.float64]


class TrainingParams(BaseModel):
    """Which text a repair is trained on, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int | None = Field(
        default=None, ge=2, description="Calibration windows to use, the first ones; null for all"
    )
    length: int | None = Field(
        default=None,
        ge=2,
        description="Tokens per sequence: longer windows are cut into several; null for no cut",
    )
    epochs: int = Field(ge=1, description="Passes over the text")
    batch: int = Field(ge=1, description="Sequences per step")


@dataclass(frozen=True, eq=False)
class TrainingText:
    """Sequences of token ids, int64 ``[sequences, length]``, of disjoint windows."""

    fit: Tokens
    heldout: Tokens


@dataclass(frozen=True)
class AdamW:
    """AdamW with a linear warm-up and a cosine decay; Adam where nothing decays the weights.

    Attributes:
        learning_rate: Highest learning rate.
        final_learning_rate: What the cosine decays to; the same for a constant learning rate.
        warmup: Share of the steps in which the learning rate grows to its highest.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of the two moments.
        clip: Largest norm of the gradient of all parameters together, None for any.
    """

    learning_rate: float
    final_learning_rate: float
    warmup: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / (steps - warmup)
        decayed = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + decayed * (1.0 + math.cos(math.pi * progress)) / 2.0


@dataclass(frozen=True, eq=False)
class LossCurve:
    """How a training went.

    Attributes:
        fit: Loss of each step, float64 ``[steps]``.
        heldout: Loss on the held-out text before the training and after each epoch, float64
            ``[epochs + 1]``. The state with the smallest one is the result.
    """

    fit: Curve
    heldout: Curve

    def audit(self, prefix: str) -> dict[str, Curve]:
        """Return the losses as audit tensors of a patch set, their names behind ``prefix``."""
        return {f"{prefix}.fit_loss": self.fit, f"{prefix}.heldout_loss": self.heldout}


def training_text(windows: Tokens, params: TrainingParams) -> TrainingText:
    """Hold out the last eighth of the windows, at least one, and cut all of them to length.

    Args:
        windows: Calibration windows, ``[windows, length]``.
        params: How many of them to use, and the length of a sequence.

    Raises:
        LpstepsError: There are fewer windows, or shorter ones, than asked for, or just one.
    """
    available, window_length = windows.shape
    count = available if params.windows is None else params.windows
    length = window_length if params.length is None else params.length
    if count > available or length > window_length:
        raise LpstepsError(
            f"windows: {count} x {length} tokens: the calibration text has "
            f"{available} x {window_length}; ask for less or calibrate on more"
        )
    pieces = window_length // length
    heldout = pieces * heldout_windows(count)
    sequences = windows[:count, : pieces * length].reshape(-1, length)
    return TrainingText(sequences[:-heldout], sequences[-heldout:])


def train(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[torch.Tensor], torch.Tensor],
    text: TrainingText,
    params: TrainingParams,
    optimiser: AdamW,
    *,
    seed: int,
    description: str,
    dropouts: Sequence[nn.Module] = (),
) -> LossCurve:
    """Train parameters in place and leave them in their best state.

    The sequences are shuffled anew in each epoch; the last batch may be smaller. With equal
    arguments two runs on the same CPU end in the same bits.

    Args:
        parameters: What to train; nothing else changes.
        loss: Mean loss of a batch of token ids, int64 ``[sequences, length]``, as a function of the
            parameters; a scalar.
        text: What to train on, and what to choose the best state on.
        params: Epochs and sequences per batch.
        optimiser: Settings of the optimiser.
        seed: Seed of the order of the sequences, and of torch where there is dropout.
        description: The text in front of the progress bar.
        dropouts: Modules that drop activations in the training steps, and only there.

    Raises:
        LpstepsError: A loss is not a finite number.
    """
    import torch

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    adamw = torch.optim.AdamW(
        parameters, betas=optimiser.betas, weight_decay=optimiser.weight_decay
    )
    per_epoch = math.ceil(len(text.fit) / params.batch)
    steps = params.epochs * per_epoch
    fit = np.empty(steps)
    heldout: list[float] = []
    best: list[torch.Tensor] = []

    def measure(step: int) -> None:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(text.heldout), params.batch):
                tokens = torch.tensor(text.heldout[start : start + params.batch])
                total += loss(tokens).item() * len(tokens)
        value = _finite(total / len(text.heldout), "held-out loss", step, steps)
        if not heldout or value < min(heldout):
            # Copies: the optimiser goes on writing into the parameters.
            best[:] = [parameter.detach().clone() for parameter in parameters]
        heldout.append(value)

    measure(0)
    order = np.arange(len(text.fit))
    for step in track(range(steps), description):
        position = step % per_epoch
        if position == 0:
            order = generator.permutation(len(text.fit))
        rows = order[position * params.batch : (position + 1) * params.batch]
        for group in adamw.param_groups:
            group["lr"] = optimiser.rate(step, steps)
        for module in dropouts:
            module.train()
        value = loss(torch.tensor(text.fit[rows]))
        for module in dropouts:
            module.eval()
        fit[step] = _finite(value.item(), "loss", step, steps)
        adamw.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        if optimiser.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, optimiser.clip)
        adamw.step()
        if position == per_epoch - 1:
            measure(step + 1)

    with torch.no_grad():
        for parameter, state in zip(parameters, best, strict=True):
            parameter.copy_(state)
    return LossCurve(fit, np.array(heldout))


def _finite(value: float, name: str, step: int, steps: int) -> float:
    if not math.isfinite(value):
        raise LpstepsError(
            f"training: step {step} of {steps}: the {name} is {value}; lower learning_rate, "
            "or set dtype: float32"
        )
    return value
