"""The training loop: accumulation, decay, measurements, and going on after a kill."""

from __future__ import annotations

import errno
import logging
import math
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lpsteps.errors import LpstepsError
from lpsteps.progress import training_bar
from lpsteps.training import AdamW, Checkpoints, LossCurve, Schedule, train

ITEMS = 7
CHANNELS = 5
GENERATOR = np.random.default_rng(0)
INPUTS = torch.tensor(GENERATOR.standard_normal((ITEMS + 3, CHANNELS)), dtype=torch.float32)
TARGETS = torch.tensor(GENERATOR.standard_normal((ITEMS + 3, CHANNELS)), dtype=torch.float32)
OPTIMISER = AdamW(0.1, 0.005, weight_decay=0.3)
SCHEDULE = Schedule(epochs=3, batch=3, micro_batch=2, evaluations=2)
LOGGER = logging.getLogger("test_training")


class Regression:
    """A matrix and a shift to fit to the items; the last three items are held out."""

    def __init__(self, dropout: float = 0.0) -> None:
        start = np.random.default_rng(1).standard_normal((CHANNELS + 1, CHANNELS))
        matrix, shift = (torch.tensor(part, dtype=torch.float32) for part in (start[1:], start[0]))
        self.parameters = {"matrix": torch.nn.Parameter(matrix), "shift": torch.nn.Parameter(shift)}
        self.dropout = dropout
        self.read: list[list[int]] = []
        self.evaluated: list[int] = []

    def errors(self, numbers: Any, dropout: float = 0.0) -> torch.Tensor:
        rows = torch.nn.functional.dropout(INPUTS[numbers], dropout)
        found = rows @ self.parameters["matrix"] + self.parameters["shift"]
        return (found - TARGETS[numbers]).square().mean()

    def loss(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        assert torch.is_grad_enabled()
        self.read.append(numbers.tolist())
        return self.errors(numbers, self.dropout)

    def evaluate(self) -> float:
        assert not torch.is_grad_enabled()
        self.evaluated.append(len(self.read))
        return self.errors(slice(ITEMS, None)).item()

    def train(
        self,
        schedule: Schedule = SCHEDULE,
        optimiser: AdamW = OPTIMISER,
        checkpoints: Checkpoints | None = None,
        loss: Callable[[npt.NDArray[np.int64]], torch.Tensor] | None = None,
        evaluate: Callable[[], float] | None = None,
    ) -> LossCurve:
        return train(
            self.parameters,
            loss or self.loss,
            ITEMS,
            schedule,
            optimiser,
            evaluate=evaluate or self.evaluate,
            seed=4,
            description="",
            tokens_per_item=10,
            checkpoints=checkpoints,
        )

    def outcome(self, curve: LossCurve) -> list[bytes]:
        """Everything that must not depend on interruptions."""
        arrays = [curve.fit, curve.heldout, curve.heldout_steps]
        arrays += [parameter.detach().numpy() for parameter in self.parameters.values()]
        return [array.tobytes() for array in arrays]


# The loop


def plain_loop(optimiser: AdamW, epochs: int) -> tuple[list[float], list[torch.Tensor]]:
    """Batches of 3, 3 and 1 by torch's own optimiser and scheduler; losses and last parameters."""
    regression = Regression()
    parameters = list(regression.parameters.values())
    start = [parameter.detach().clone() for parameter in parameters]
    torch_decay = 0.0 if optimiser.decay_towards_start else optimiser.weight_decay
    adamw = torch.optim.AdamW(parameters, lr=optimiser.learning_rate, weight_decay=torch_decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
        adamw, T_max=3 * epochs, eta_min=optimiser.final_learning_rate
    )
    generator = np.random.default_rng(4)
    losses = []
    for _ in range(epochs):
        order = generator.permutation(ITEMS)
        for batch in (order[:3], order[3:6], order[6:]):
            adamw.zero_grad()
            value = regression.errors(batch)
            value.backward()
            losses.append(value.item())
            if optimiser.decay_towards_start:
                shrink = cosine.get_last_lr()[0] * optimiser.weight_decay
                for parameter, origin in zip(parameters, start, strict=True):
                    parameter.data = parameter.data - shrink * (parameter.data - origin)
            adamw.step()
            cosine.step()
    return losses, [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("towards_start", [False, True])
@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_loop_equals_torchs_own_optimiser_and_scheduler(
    towards_start: bool, micro_batch: int | None
) -> None:
    optimiser = replace(OPTIMISER, decay_towards_start=towards_start)
    losses, last = plain_loop(optimiser, epochs=4)
    regression = Regression()
    # Each measurement is better than the one before, so the last state is the result.
    improving = iter(range(100, 0, -1))
    curve = regression.train(
        Schedule(epochs=4, batch=3, micro_batch=micro_batch),
        optimiser,
        evaluate=lambda: float(next(improving)),
    )
    np.testing.assert_allclose(curve.fit, losses, rtol=1e-5)
    for found, expected in zip(regression.parameters.values(), last, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-5)
    assert {len(numbers) for numbers in regression.read} == {
        None: {1, 3},
        1: {1},
        2: {1, 2},
    }[micro_batch]


def test_decay_towards_the_start_is_not_decay_towards_zero() -> None:
    (_, to_zero), (_, to_start) = (
        plain_loop(replace(OPTIMISER, decay_towards_start=towards_start), epochs=4)
        for towards_start in (False, True)
    )
    assert (to_zero[0] - to_start[0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        (1, [0, 3, 6]),
        (2, [0, 2, 3, 5, 6]),
        (3, [0, 1, 2, 3, 4, 5, 6]),
        (8, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_heldout_loss_is_measured_evenly_and_ends_each_epoch(
    evaluations: int, expected: list[int]
) -> None:
    regression = Regression()
    curve = regression.train(Schedule(epochs=2, batch=3, evaluations=evaluations))
    assert curve.heldout_steps.tolist() == expected == regression.evaluated


def test_items_read_count_every_epoch() -> None:
    schedule = Schedule(epochs=2, batch=3)
    assert [schedule.items_read(step, ITEMS) for step in range(7)] == [0, 3, 6, 7, 10, 13, 14]


def test_training_ends_when_patience_does_and_restores_the_best_state() -> None:
    heldout = iter([5.0, 4.0, 6.0, 3.0, 3.0, 8.0])
    regression = Regression()
    visited: list[torch.Tensor] = []

    def evaluate() -> float:
        visited.append(regression.parameters["matrix"].detach().clone())
        return next(heldout)

    curve = regression.train(
        Schedule(epochs=9, batch=3, evaluations=3, patience=2), evaluate=evaluate
    )
    assert curve.heldout.tolist() == [5.0, 4.0, 6.0, 3.0, 3.0, 8.0]
    assert len(curve.fit) == 5
    assert curve.best_step == 3
    assert torch.equal(regression.parameters["matrix"], visited[3])
    assert not torch.equal(visited[3], visited[4])


def test_no_epoch_measures_the_start_and_leaves_it() -> None:
    regression = Regression()
    before = {name: value.detach().clone() for name, value in regression.parameters.items()}
    curve = regression.train(Schedule(epochs=0, batch=2))
    assert (curve.fit.shape, curve.heldout.shape, curve.best_step) == ((0,), (1,), 0)
    for name, parameter in regression.parameters.items():
        assert torch.equal(parameter, before[name])


# Going on


def _checkpoints(folder: Path, key: str = "key", every: int = 2) -> Checkpoints:
    return Checkpoints(folder / ".training", key, every, LOGGER)


@pytest.fixture(scope="module")
def unbroken() -> list[bytes]:
    """A run without checkpoints, with dropout, whose random numbers are part of the state."""
    regression = Regression(dropout=0.3)
    return regression.outcome(regression.train())


@pytest.mark.parametrize(("every", "towards_start"), [(1, False), (2, True), (5, False)])
def test_interrupted_at_any_pass_the_run_ends_in_the_same_bits(
    tmp_path: Path, every: int, towards_start: bool
) -> None:
    optimiser = replace(OPTIMISER, decay_towards_start=towards_start)
    whole = Regression(dropout=0.3)
    expected = whole.outcome(whole.train(optimiser=optimiser))
    passes = len(whole.read)
    assert passes == 15
    for fatal in range(passes):
        checkpoints = _checkpoints(tmp_path / str(fatal), every=every)
        first = Regression(dropout=0.3)

        def loss(numbers: Any, first: Regression = first, fatal: int = fatal) -> torch.Tensor:
            if len(first.read) == fatal:
                raise KeyboardInterrupt
            return first.loss(numbers)

        with pytest.raises(KeyboardInterrupt):
            first.train(optimiser=optimiser, checkpoints=checkpoints, loss=loss)
        torch.rand(3)
        second = Regression(dropout=0.3)
        curve = second.train(optimiser=optimiser, checkpoints=checkpoints)
        assert second.outcome(curve) == expected
        # Five passes are three steps.
        steps_done = 3 * (fatal // 5) + (fatal % 5) // 2
        assert curve.resumed_at == steps_done // every * every
        assert len(second.read) < passes or curve.resumed_at == 0


def test_out_of_patience_stays_so_after_an_interruption(tmp_path: Path) -> None:
    schedule = Schedule(epochs=9, batch=3, evaluations=3, patience=1)
    checkpoints = _checkpoints(tmp_path, every=1)
    curves, outcomes = [], []
    for values in ([5.0, 4.0, 6.0, 1.0], [1.0]):
        heldout = iter(values)
        regression = Regression()
        curves.append(
            regression.train(schedule, checkpoints=checkpoints, evaluate=lambda: next(heldout))  # noqa: B023
        )
        outcomes.append(regression.outcome(curves[-1]))
    assert curves[1].heldout.tolist() == [5.0, 4.0, 6.0]
    assert (curves[1].best_step, curves[1].resumed_at) == (1, 2)
    assert outcomes[0] == outcomes[1]
    assert regression.read == []


def _train_and_die(folder: Path, fatal: int) -> None:
    regression = Regression(dropout=0.3)

    def loss(numbers: Any) -> torch.Tensor:
        if len(regression.read) == fatal:
            os._exit(9)
        return regression.loss(numbers)

    regression.train(checkpoints=_checkpoints(folder), loss=loss)


def test_processes_that_die_one_after_another_end_in_the_same_bits(
    tmp_path: Path, unbroken: list[bytes]
) -> None:
    # A forked process needs no second import of torch; a single thread can be forked.
    torch.set_num_threads(1)
    for fatal in (4, 0, 2, 6):
        process = multiprocessing.get_context("fork").Process(
            target=_train_and_die, args=(tmp_path, fatal)
        )
        process.start()
        process.join()
        assert process.exitcode == 9
    regression = Regression(dropout=0.3)
    curve = regression.train(checkpoints=_checkpoints(tmp_path))
    assert regression.outcome(curve) == unbroken
    # The last one went on from step 2, and its six passes are four steps.
    assert curve.resumed_at == 6


def _interrupted(folder: Path) -> Path:
    """A run that ends after five passes, three steps; the path of its checkpoint."""
    regression = Regression(dropout=0.3)

    def loss(numbers: Any) -> torch.Tensor:
        if len(regression.read) == 5:
            raise KeyboardInterrupt
        return regression.loss(numbers)

    with pytest.raises(KeyboardInterrupt):
        regression.train(checkpoints=_checkpoints(folder), loss=loss)
    return _checkpoints(folder).path


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def _scribble(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _flip, _scribble, _empty])
def test_a_damaged_checkpoint_is_ignored_with_a_message(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    unbroken: list[bytes],
    damage: Callable[[Path], None],
) -> None:
    damage(_interrupted(tmp_path))
    regression = Regression(dropout=0.3)
    curve = regression.train(checkpoints=_checkpoints(tmp_path))
    assert (curve.resumed_at, regression.outcome(curve)) == (0, unbroken)
    assert "checkpoint.safetensors: damaged (" in caplog.text


def test_a_checkpoint_of_another_run_is_ignored_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unbroken: list[bytes]
) -> None:
    _interrupted(tmp_path)
    regression = Regression(dropout=0.3)
    curve = regression.train(checkpoints=_checkpoints(tmp_path, key="other"))
    assert (curve.resumed_at, regression.outcome(curve)) == (0, unbroken)
    assert "checkpoint.safetensors: of another run; starting over" in caplog.text


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: list[bytes]
) -> None:
    path = _interrupted(tmp_path)
    before = path.read_bytes()

    def half(path: Path, *_: object) -> None:
        path.write_bytes(before[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr("lpsteps.training.write_tensors", half)
    with pytest.raises(KeyboardInterrupt):
        Regression(dropout=0.3).train(checkpoints=_checkpoints(tmp_path))
    assert path.read_bytes() == before
    monkeypatch.undo()
    regression = Regression(dropout=0.3)
    curve = regression.train(checkpoints=_checkpoints(tmp_path))
    assert (curve.resumed_at, regression.outcome(curve)) == (2, unbroken)
    _checkpoints(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


# What is not a number


def test_a_loss_that_is_not_finite_names_step_loss_and_checkpoint(tmp_path: Path) -> None:
    checkpoints = _checkpoints(tmp_path)
    regression = Regression()

    def loss(numbers: Any) -> torch.Tensor:
        value = regression.loss(numbers)
        return value * math.inf if len(regression.read) == 9 else value

    message = r"step 4 of 9: the loss is inf; the last good checkpoint, of step 4, is (.*); lower"
    with pytest.raises(LpstepsError, match=message) as caught:
        regression.train(checkpoints=checkpoints, loss=loss)
    assert str(checkpoints.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    found = checkpoints.load()
    assert found is not None
    assert found[0] == 4


def test_a_gradient_that_is_not_finite_never_reaches_parameters_or_checkpoints(
    tmp_path: Path,
) -> None:
    regression = Regression()

    def loss(numbers: Any) -> torch.Tensor:
        value = regression.loss(numbers)
        # The root of zero has no finite slope.
        zero = (regression.parameters["shift"] * 0.0).sum()
        return value + zero.sqrt() if len(regression.read) == 6 else value

    with pytest.raises(LpstepsError, match=r"step 3 of 9: the norm of the gradient is nan"):
        regression.train(checkpoints=_checkpoints(tmp_path, every=1), loss=loss)
    assert all(parameter.isfinite().all() for parameter in regression.parameters.values())


def test_without_a_checkpoint_none_is_named() -> None:
    with pytest.raises(LpstepsError, match=r"step 0 of 9: the held-out loss is nan; lower"):
        Regression().train(evaluate=lambda: math.nan)


# The bar


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [_Terminal, StringIO])
def test_bar_shows_loss_speed_and_time_left_on_terminals_alone(
    monkeypatch: pytest.MonkeyPatch, stream: type[StringIO]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    output = stream()
    monkeypatch.setattr(sys, "stderr", output)
    with training_bar("layers 3 to 5", 4000, 1000) as report:
        for done in (2000, 3000):
            report(done, f"loss {done / 8000:.4f}")
    text = output.getvalue()
    if stream is StringIO:
        assert text == ""
        return
    for part in ("layers 3 to 5", "75%", "loss 0.3750", "tokens/s", "0:00:0"):
        assert part in text


def test_a_full_disk_keeps_the_last_checkpoint_and_no_half_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = _checkpoints(tmp_path)
    checkpoints.save(1, {"values": np.arange(3.0)})

    def half(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lpsteps.training.write_tensors", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, {"values": np.arange(3.0)})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["checkpoint.safetensors"]
    loaded = checkpoints.load()
    assert loaded is not None and loaded[0] == 1
