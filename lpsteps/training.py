"""One deterministic training loop for all repairs that are trained, and its checkpoints.

A run is a function of its arguments: the same ones give the same bits on the same CPU, whether or
not it was killed and started again on the way. :func:`train` works on items by number and leaves it
to the caller what an item is; :func:`train_on_text` is for repairs whose items are sequences of
calibration text.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import (
    canonical_json,
    flush_to_disk,
    read_tensors,
    sha256_bytes,
    tensor_digests,
    write_tensors,
)
from lpsteps.calibration_text import WantedText, heldout_windows
from lpsteps.errors import LpstepsError
from lpsteps.progress import training_bar

if TYPE_CHECKING:
    import torch
    from torch import nn

Tokens = npt.NDArray[np.int64]
Items = npt.NDArray[np.int64]
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

    @property
    def wanted_text(self) -> WantedText:
        """The text that is needed."""
        return WantedText(self.windows, self.length)


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
        decay_towards_start: Whether it draws the weights to where they started, in place of zero.
        betas: Decay rates of the two moments.
        clip: Largest norm of the gradient of all parameters together, None for any.
    """

    learning_rate: float
    final_learning_rate: float
    warmup: float = 0.0
    weight_decay: float = 0.0
    decay_towards_start: bool = False
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


@dataclass(frozen=True)
class Schedule:
    """How often the items are read, in which portions, and when it is measured what came of it.

    Attributes:
        epochs: Passes over the items; none measures the start and leaves it.
        batch: Items per optimiser step. The last batch of an epoch may be smaller.
        micro_batch: Items per evaluation of the loss, whose gradients accumulate; None for the
            whole batch.
        evaluations: Measurements of the held-out loss per epoch, spread evenly and ending with it;
            there is one more in front of the training.
        patience: Measurements without a better one after which the training ends, None for never.
    """

    epochs: int
    batch: int
    micro_batch: int | None = None
    evaluations: int = 1
    patience: int | None = None

    def steps_per_epoch(self, items: int) -> int:
        """Return the number of optimiser steps in which so many items are read once."""
        return math.ceil(items / self.batch)

    def items_read(self, step: int, items: int) -> int:
        """Return how many items the first steps have read, with those of all epochs counted."""
        epochs, position = divmod(step, self.steps_per_epoch(items))
        return epochs * items + min(position * self.batch, items)

    def measured(self, step: int, items: int) -> bool:
        """Tell whether the held-out loss is measured after so many steps, at least one."""
        per_epoch = self.steps_per_epoch(items)
        position = (step - 1) % per_epoch + 1
        return position in {
            -(-number * per_epoch // self.evaluations) for number in range(1, self.evaluations + 1)
        }


@dataclass(frozen=True, eq=False)
class LossCurve:
    """How a training went.

    Attributes:
        fit: Loss of the batch of each step, in front of the step, float64 ``[steps]``.
        heldout: Held-out loss where it was measured, before the first step and later, float64
            ``[measurements]``. The state with the smallest one is the result.
        heldout_steps: How many steps had been taken at each measurement, int64
            ``[measurements]``; the first is 0.
        resumed_at: Step of the checkpoint that the run went on from; 0 when there was none.
    """

    fit: Curve
    heldout: Curve
    heldout_steps: npt.NDArray[np.int64]
    resumed_at: int = 0

    @property
    def best_step(self) -> int:
        """How many steps lead to the result."""
        return int(self.heldout_steps[self.heldout.argmin()])

    def audit(self, prefix: str) -> dict[str, Curve]:
        """Return the losses as audit tensors of a patch set, their names behind ``prefix``."""
        return {f"{prefix}.fit_loss": self.fit, f"{prefix}.heldout_loss": self.heldout}


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """The file from which an interrupted training goes on.

    Attributes:
        folder: Folder of its own for the file.
        key: Digest of everything that the training depends on. A file with another key is of no
            use and is ignored.
        every: Optimiser steps between two checkpoints.
        logger: Where it is said what becomes of a file that is found.
    """

    folder: Path
    key: str
    every: int
    logger: logging.Logger

    @property
    def path(self) -> Path:
        """The file; a later checkpoint replaces an earlier one."""
        return self.folder / "checkpoint.safetensors"

    def save(self, step: int, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store the state after so many steps, so that no kill leaves half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".partial-{self.path.name}")
        facts = {"key": self.key, "step": str(step), "content": _content_digest(tensors)}
        try:
            write_tensors(partial, tensors, facts)
        except OSError:
            # On a full disk, half a checkpoint would take the room of what is tried next.
            partial.unlink(missing_ok=True)
            raise
        partial.replace(self.path)
        flush_to_disk(self.folder)

    def load(self) -> tuple[int, dict[str, npt.NDArray[Any]]] | None:
        """Return the stored step and state, or None where there is none that can be used."""
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                facts = file.metadata() or {}
            if facts.get("key") != self.key:
                self.logger.warning("%s: of another run; starting over", self.path)
                return None
            tensors = read_tensors(self.path)
            if facts["content"] != _content_digest(tensors):
                raise LpstepsError(f"{self.path}: other content than was written")
            step = int(facts["step"])
        except (KeyError, OSError, SafetensorError, LpstepsError) as error:
            self.logger.warning("%s: damaged (%s); starting over", self.path, error)
            return None
        self.logger.info("%s: going on from step %d", self.path, step)
        return step, tensors

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _content_digest(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    return sha256_bytes(canonical_json(tensor_digests(tensors)).encode())


@dataclass(eq=False)
class _State:
    """Everything that changes from step to step.

    Attributes:
        parameters: What is trained.
        adamw: The optimiser with its moments.
        best: Copies of the parameters at the smallest held-out loss so far.
        fit: Loss of each step so far.
        heldout: Held-out losses so far.
        heldout_steps: Steps taken at each of these.
    """

    parameters: Mapping[str, nn.Parameter]
    adamw: torch.optim.AdamW
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    fit: list[float] = field(default_factory=list)
    heldout: list[float] = field(default_factory=list)
    heldout_steps: list[int] = field(default_factory=list)

    def measured(self, value: float) -> None:
        """Take note of the held-out loss of the present state."""
        if not self.heldout or value < min(self.heldout):
            # Copies: the optimiser goes on writing into the parameters.
            self.best = {
                name: parameter.detach().clone() for name, parameter in self.parameters.items()
            }
        self.heldout.append(value)
        self.heldout_steps.append(len(self.fit))

    def out_of_patience(self, patience: int | None) -> bool:
        """Tell whether so many measurements in a row were no better than one before them."""
        worse = len(self.heldout) - 1 - self.heldout.index(min(self.heldout))
        return patience is not None and worse >= patience

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state, with that of torch's random numbers, as arrays of their own."""
        import torch

        arrays: dict[str, npt.NDArray[Any]] = {
            "fit": np.array(self.fit),
            "heldout": np.array(self.heldout),
            "heldout_steps": np.array(self.heldout_steps),
            "random": torch.get_rng_state().numpy(),
        }
        for name, parameter in self.parameters.items():
            arrays[f"parameter.{name}"] = parameter.detach().cpu().numpy()
            arrays[f"best.{name}"] = self.best[name].cpu().numpy()
            for moment, value in self.adamw.state.get(parameter, {}).items():
                # The count of steps is a scalar, which safetensors would store with an axis.
                arrays[f"{moment}.{name}"] = np.atleast_1d(value.cpu().numpy())
        return arrays

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become the state that :meth:`tensors` returned."""
        import torch

        self.fit = arrays["fit"].tolist()
        self.heldout = arrays["heldout"].tolist()
        self.heldout_steps = arrays["heldout_steps"].tolist()
        torch.set_rng_state(torch.tensor(arrays["random"]))
        for name, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(torch.tensor(arrays[f"parameter.{name}"]))
            self.best[name] = torch.tensor(arrays[f"best.{name}"], device=parameter.device)
            if f"step.{name}" in arrays:
                moments = {
                    moment: torch.tensor(arrays[f"{moment}.{name}"], device=parameter.device)
                    for moment in ("exp_avg", "exp_avg_sq")
                }
                # AdamW counts its steps on the CPU, wherever the parameter is.
                self.adamw.state[parameter] = {
                    "step": torch.tensor(arrays[f"step.{name}"][0]),
                    **moments,
                }


def training_text(
    windows: Tokens, params: TrainingParams, *, bos_in_windows: bool = False
) -> TrainingText:
    """Hold out the last eighth of the windows, at least one, and cut all of them to length.

    Args:
        windows: Calibration windows, ``[windows, length]``.
        params: How many of them to use, and the length of a sequence.
        bos_in_windows: Whether each window begins with a BOS token; each sequence then does, too.

    Raises:
        LpstepsError: There are fewer windows, or shorter ones, than asked for, or just one.
    """
    lacking = params.wanted_text.lacking(*windows.shape)
    if lacking is not None:
        raise LpstepsError(lacking)
    available, window_length = windows.shape
    count = available if params.windows is None else params.windows
    length = window_length if params.length is None else params.length
    pieces = window_length // length
    heldout = pieces * heldout_windows(count)
    used = windows[:count]
    if bos_in_windows:
        # The text of a sequence goes on where that of the one in front of it ends.
        text = used[:, 1 : 1 + pieces * (length - 1)].reshape(-1, length - 1)
        sequences = np.hstack([np.repeat(used[:, :1], pieces, axis=0), text])
    else:
        sequences = used[:, : pieces * length].reshape(-1, length)
    return TrainingText(sequences[:-heldout], sequences[-heldout:])


def train(
    parameters: Mapping[str, nn.Parameter],
    loss: Callable[[Items], torch.Tensor],
    items: int,
    schedule: Schedule,
    optimiser: AdamW,
    *,
    evaluate: Callable[[], float],
    seed: int,
    description: str,
    tokens_per_item: int,
    checkpoints: Checkpoints | None = None,
) -> LossCurve:
    """Train parameters in place and leave them in their best state.

    The items are shuffled anew in each epoch. Killed at any step and called again with the same
    arguments, it goes on from the last checkpoint and, on the same CPU, ends in the same bits.

    Args:
        parameters: What to train, by name; nothing else changes.
        loss: Mean loss of the items of these numbers, as a function of the parameters; a scalar.
        items: How many items there are.
        schedule: Epochs, batches and measurements.
        optimiser: Settings of the optimiser.
        evaluate: The held-out loss of the present parameters, on which the best state is chosen.
        seed: Seed of the order of the items, and of torch's random numbers.
        description: The text in front of the progress bar.
        tokens_per_item: For the speed in the progress bar.
        checkpoints: Where to store the state every so many steps; None for nowhere.

    Raises:
        LpstepsError: A loss or a gradient is not a finite number.
    """
    import torch

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(items) for _ in range(schedule.epochs)]
    per_epoch = schedule.steps_per_epoch(items)
    steps = schedule.epochs * per_epoch
    decay, towards_start = optimiser.weight_decay, optimiser.decay_towards_start
    adamw = torch.optim.AdamW(
        parameters.values(),
        betas=optimiser.betas,
        weight_decay=0.0 if towards_start else decay,
    )
    origins = [parameter.detach().clone() for parameter in parameters.values() if towards_start]
    state = _State(parameters, adamw)
    saved: int | None = None

    def finite(value: float, name: str) -> float:
        if math.isfinite(value):
            return value
        kept = ""
        if checkpoints and saved is not None:
            kept = f"the last good checkpoint, of step {saved}, is {checkpoints.path}; "
        raise LpstepsError(
            f"training: step {len(state.fit)} of {steps}: the {name} is {value}; {kept}"
            "lower learning_rate, or set dtype: float32 (other settings begin anew)"
        )

    def measure() -> None:
        with torch.no_grad():
            state.measured(finite(evaluate(), "held-out loss"))

    found = checkpoints.load() if checkpoints else None
    if found:
        saved, arrays = found
        state.restore(arrays)
    else:
        measure()
    resumed_at = len(state.fit)

    def tokens(step: int) -> int:
        return schedule.items_read(step, items) * tokens_per_item

    with training_bar(description, tokens(steps), tokens(resumed_at)) as report:
        while len(state.fit) < steps and not state.out_of_patience(schedule.patience):
            step = len(state.fit)
            epoch, position = divmod(step, per_epoch)
            batch = orders[epoch][position * schedule.batch : (position + 1) * schedule.batch]
            rate = optimiser.rate(step, steps)
            for group in adamw.param_groups:
                group["lr"] = rate
            adamw.zero_grad()
            total = 0.0
            pass_size = schedule.micro_batch or len(batch)
            for first in range(0, len(batch), pass_size):
                numbers = batch[first : first + pass_size]
                share = len(numbers) / len(batch)
                value = loss(numbers)
                total += share * finite(value.item(), "loss")
                (value * share).backward()  # type: ignore[no-untyped-call]
            gradients = [
                parameter.grad for parameter in parameters.values() if parameter.grad is not None
            ]
            norm = torch.nn.utils.get_total_norm(gradients)
            finite(norm.item(), "norm of the gradient")
            if optimiser.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters.values(), optimiser.clip, norm)
            if towards_start:
                with torch.no_grad():
                    for parameter, origin in zip(parameters.values(), origins, strict=True):
                        parameter.lerp_(origin, rate * decay)
            adamw.step()
            state.fit.append(total)
            report(tokens(step + 1), f"loss {total:.4f}")
            if schedule.measured(step + 1, items):
                measure()
            if checkpoints and (step + 1) % checkpoints.every == 0:
                checkpoints.save(step + 1, state.tensors())
                saved = step + 1

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.best[name])
    return LossCurve(
        np.array(state.fit), np.array(state.heldout), np.array(state.heldout_steps), resumed_at
    )


def train_on_text(
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
    """Train parameters on sequences of text in place and leave them in their best state.

    The held-out loss, before the training and after each epoch, is the mean over the held-out
    sequences.

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
        LpstepsError: A loss or a gradient is not a finite number.
    """
    import torch

    def fit_loss(numbers: Items) -> torch.Tensor:
        for module in dropouts:
            module.train()
        value = loss(torch.tensor(text.fit[numbers]))
        for module in dropouts:
            module.eval()
        return value

    def heldout_loss() -> float:
        total = 0.0
        for first in range(0, len(text.heldout), params.batch):
            tokens = torch.tensor(text.heldout[first : first + params.batch])
            total += loss(tokens).item() * len(tokens)
        return total / len(text.heldout)

    return train(
        {str(index): parameter for index, parameter in enumerate(parameters)},
        fit_loss,
        len(text.fit),
        Schedule(params.epochs, params.batch),
        optimiser,
        evaluate=heldout_loss,
        seed=seed,
        description=description,
        tokens_per_item=text.fit.shape[1],
    )
