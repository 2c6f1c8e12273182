"""Progress is shown on a terminal and nowhere else."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from terminal import Terminal

from lpsteps.fingerprint import closure
from lpsteps.methods import method_module, method_names
from lpsteps.overheads.timing import Work, time_in_turns
from lpsteps.progress import byte_bar, elapsed, track, training_bar

ROOT = Path(__file__).parents[2]
SHORT = {"build_tables", "choose_dtype", "choose_layers", "render_report"}


def walk_through() -> None:
    assert list(track(range(3), "walking")) == [0, 1, 2]


def walk_without_length() -> None:
    assert list(track((number for number in range(3)), "walking", total=3)) == [0, 1, 2]


def copy_bytes() -> None:
    with byte_bar("walking", 10) as advance:
        advance(4)
        advance(6)


def wait() -> None:
    with elapsed("walking"):
        time.sleep(0.01)


def train() -> None:
    with training_bar("walking", tokens=10, completed=0) as update:
        update(10, "loss 1.5")


def time_work() -> None:
    work = Work(lambda: None, lambda _: None)
    time_in_turns({"a": work}, repetitions=5, seconds=0.0, wait=lambda: None)


DISPLAYS = {
    walk_through: "3/3",
    walk_without_length: "3/3",
    copy_bytes: "10/10 bytes",
    wait: "0:00:00",
    train: "loss 1.5",
}


@pytest.mark.parametrize("display", DISPLAYS, ids=lambda display: display.__name__)
def test_shown_on_a_terminal(display):
    with Terminal() as terminal:
        display()
    assert "walking" in terminal.text and DISPLAYS[display] in terminal.text


@pytest.mark.parametrize("display", [*DISPLAYS, time_work], ids=lambda display: display.__name__)
def test_silent_elsewhere(display, capfd: pytest.CaptureFixture[str]):
    display()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_drawn_beside_timed_work():
    """A bar that another thread redraws would take time from what is timed."""
    threads: set[int] = set()
    work = Work(lambda: None, lambda _: threads.add(threading.active_count()))
    with Terminal() as terminal:
        before = threading.active_count()
        time_in_turns({"a": work}, repetitions=3, seconds=0.0, wait=lambda: None)
    assert threads == {before}
    assert "timing" in terminal.text


def test_what_a_library_prints_meanwhile_can_be_caught():
    with Terminal() as terminal, elapsed("walking"), redirect_stderr(StringIO()) as caught:
        print("a bar of the library's own", file=sys.stderr)
        time.sleep(0.2)
    assert caught.getvalue() == "a bar of the library's own\n"
    assert "walking" in terminal.text and "library" not in terminal.text


def needs_model(module: ModuleType) -> bool:
    """Whether a method runs the model, whatever its parameters are."""
    return "model" in getattr(module, "NEEDS", ())


# Their loops are in the methods, each a module that the step names in its spec.
METHODS = {"selection": "rank_layers", "recovery": "build_patch", "width": "prune_width"}
STEPS = {path.stem for path in (ROOT / "lpsteps/steps").glob("*.py")}
# These read weights alone, of the layers at the cut.
WEIGHTS_ONLY = {"replaceme", "procrustes_replaceme"}


def test_every_long_step_can_show_progress():
    for step in STEPS - SHORT - {"__init__", *METHODS.values()}:
        assert "lpsteps.progress" in closure([f"lpsteps.steps.{step}"]), step


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_that_runs_the_model_can_show_progress(kind: str):
    names = set(method_names(kind)) - WEIGHTS_ONLY
    modules = [method_module(kind, name) for name in sorted(names)]
    long = [module for module in modules if kind == "width" or needs_model(module)]
    assert long
    for module in long:
        assert "lpsteps.progress" in closure([module.__name__]), module.__name__
