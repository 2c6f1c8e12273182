"""What a patch and other operations cost: counts by closed form, calls that compute what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lpsteps.distillation.teacher_store import encoded_targets
from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.models.patch import Patch
from lpsteps.models.surgery import apply_plan
from lpsteps.overheads.measurements import Spread
from lpsteps.overheads.operations import (
    compared_operations,
    measure_operations,
    phase_works,
)
from lpsteps.overheads.storage import storage_facts
from lpsteps.overheads.timing import FEWEST, WARM_UP, Work, time_in_turns
from lpsteps.patches import GapPatch, Operation
from lpsteps.plan import Plan

CPU = torch.device("cpu")
HIDDEN, INNER = 48, 80


@pytest.fixture
def one_layer(tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of tiny models that are cut to layer 1."""

    def make(family: str = "llama") -> Any:
        model = tiny_model(family, layers=3)
        apply_plan(model, Plan.removing(3, (0, 2)))
        return model

    return make


def last_output(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the only layer of a model makes of the last token, in one pass over all of them."""
    outputs: list[torch.Tensor] = []

    def keep(_: object, __: object, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hook = decoder_of(model).layers[0].register_forward_hook(keep)
    decoder_of(model).backbone(input_ids=tokens, use_cache=False)
    hook.remove()
    return outputs[0][:, -1:]


def test_a_layer_is_called_as_the_model_calls_it(
    one_layer: Callable[..., Any], family: str
) -> None:
    """Decoding from the cache gives what a pass over all tokens gives, however often it runs."""
    model = one_layer(family)
    tokens = torch.randint(128, (2, 10), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        works = phase_works(model, 2, 9, seed=3)
        hidden, prefill = works.prefill
        assert hidden.shape == (2, 9, HIDDEN)
        assert works.decode[0].shape == (2, 1, HIDDEN)
        for length, (_, work) in ((9, (hidden, prefill)), (10, works.decode)):
            expected = last_output(model, tokens[:, :length])
            for _ in range(2):
                output: Any = work.run(work.prepare())
                output = output[0] if isinstance(output, tuple) else output
                torch.testing.assert_close(output[:, -1:], expected, rtol=1e-4, atol=1e-4)


def test_the_compared_operations_compute_what_they_stand_for(
    one_layer: Callable[..., Any],
) -> None:
    layer = decoder_of(one_layer()).layers[0]
    modules, flops, basis = compared_operations(layer, HIDDEN, torch.float32, CPU, 0)
    rows = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(modules["patch"](rows), modules["patch-rotated"](rows))
    assert not torch.allclose(modules["patch"](rows), rows, atol=1e-2)
    ffn = modules["ffn"]
    weight = torch.stack([ffn.gate, ffn.up, ffn.down]).numpy()
    inserted = Patch(GapPatch(0, 1, (Operation("gated_mlp", weight),)))
    torch.testing.assert_close(ffn(rows), inserted(rows))
    assert modules["layer"] is layer
    orders = [int(part.rpartition("-")[2]) for part in basis.split(" (x) ")]
    assert math.prod(orders) == HIDDEN
    # Two rotations, each with a multiplication and an addition per entry of each factor.
    assert flops["patch-rotated"] == 2 * 2 * HIDDEN * sum(orders) + HIDDEN


def test_every_operation_returns_the_dtype_of_the_model(one_layer: Callable[..., Any]) -> None:
    layer = decoder_of(one_layer().bfloat16()).layers[0]
    modules, _, _ = compared_operations(layer, HIDDEN, torch.bfloat16, CPU, 0)
    rows = torch.randn(2, HIDDEN, dtype=torch.bfloat16)
    for name in ("patch", "patch-rotated", "ffn"):
        assert modules[name](rows).dtype == torch.bfloat16, name
    assert modules["ffn"].gate.dtype == torch.bfloat16
    weights = (*modules["patch"].parameters(), *modules["patch-rotated"].parameters())
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_counts_and_ratios_by_closed_form(tiny_model: Callable[..., Any]) -> None:
    """The layer has two key-value heads for four; its two norms take no part in the operations."""
    asked: list[tuple[int, float]] = []

    def timer(works: dict[str, Work], *, repetitions: int, seconds: float, wait: object) -> Any:
        asked.append((repetitions, seconds))
        scale = {"patch": 1.0, "patch-rotated": 0.5, "ffn": 6.0, "layer": 10.0}
        assert list(works) == list(scale)
        return {name: [scale[name] * turn for turn in (1.0, 2.0, 5.0)] for name in works}

    model = tiny_model("llama", layers=5)
    middle = model.model.layers[2].mlp.up_proj.weight
    found = measure_operations(
        model, batch=2, length=9, repetitions=7, seconds=4.0, seed=0, timer=timer
    )
    assert asked == [(7, 4.0)] * 2
    assert found.layer == 2
    assert model.model.layers[0].mlp.up_proj.weight is middle
    assert found.repetitions == {"prefill": 3, "decode": 3}
    layer = 2 * HIDDEN**2 + 2 * HIDDEN * 24 + 3 * HIDDEN * INNER
    assert {name: facts.parameters for name, facts in found.operations.items()} == {
        "patch": HIDDEN**2,
        "patch-rotated": HIDDEN,
        "ffn": 3 * HIDDEN * INNER,
        "layer": layer + 2 * HIDDEN,
    }
    assert found.operations["patch"].flops == 2 * HIDDEN**2
    assert found.operations["ffn"].flops == 6 * HIDDEN * INNER
    assert found.operations["layer"].flops == 2 * layer
    ffn = found.operations["ffn"]
    assert ffn.relative.parameters == pytest.approx(3 * INNER / HIDDEN)
    assert ffn.relative.flops == pytest.approx(3 * INNER / HIDDEN)
    assert ffn.prefill_ms == Spread(median=12.0, low=9.0, high=21.0)
    assert ffn.relative.decode == Spread(median=6.0, low=6.0, high=6.0)
    assert found.operations["patch"].relative.prefill.median == 1.0


def test_a_window_longer_than_the_model_takes_is_refused(one_layer: Callable[..., Any]) -> None:
    with pytest.raises(LpstepsError, match="length: 128: must be less than the 128 tokens"):
        phase_works(one_layer(), 1, 128, seed=0)


class Clock:
    """Seconds that pass only while work is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def work(self, name: str, seconds: float) -> Work:
        def prepare() -> float:
            self.now += 100.0
            return seconds

        def run(argument: float) -> None:
            self.done.append(name)
            self.now += argument

        return Work(prepare, run)

    def works(self) -> dict[str, Work]:
        return {"a": self.work("a", 0.25), "b": self.work("b", 0.5), "c": self.work("c", 1.0)}


def test_works_take_turns_and_preparation_does_not_count() -> None:
    clock = Clock()
    times = time_in_turns(
        clock.works(), repetitions=4, seconds=1e9, wait=lambda: None, clock=lambda: clock.now
    )
    assert times == {"a": [250.0] * 4, "b": [500.0] * 4, "c": [1000.0] * 4}
    turns = ["".join(clock.done[i : i + 3]) for i in range(0, len(clock.done), 3)]
    assert len(turns) == 4 + WARM_UP
    assert turns[WARM_UP:] == ["abc", "bca", "cab", "abc"]


@pytest.mark.parametrize(("seconds", "turns"), [(1e9, 50), (1.0, FEWEST), (2710.0, 6)])
def test_no_turn_begins_after_the_time_is_over(seconds: float, turns: int) -> None:
    """A turn takes 301.75 seconds here, so nine of them, three to warm up, end behind 2710."""
    clock = Clock()
    times = time_in_turns(
        clock.works(), repetitions=50, seconds=seconds, wait=lambda: None, clock=lambda: clock.now
    )
    assert {len(found) for found in times.values()} == {turns}


def test_the_device_is_waited_for_inside_of_the_measured_time() -> None:
    clock = Clock()
    pending = 0.0

    def run(_: object) -> None:
        nonlocal pending
        pending = 0.125

    def wait() -> None:
        nonlocal pending
        clock.now += pending
        pending = 0.0

    times = time_in_turns(
        {"a": Work(lambda: None, run)},
        repetitions=2,
        seconds=1e9,
        wait=wait,
        clock=lambda: clock.now,
    )
    assert times == {"a": [125.0, 125.0]}


def layouts(top_k: int, hidden: int, vocabulary: int, tokens: int) -> Iterator[tuple[str, int]]:
    """The bytes of arrays that hold a text in each layout."""
    kept = (1, tokens, top_k)
    zeros = np.zeros(kept, np.float32), np.zeros(kept, np.int64)
    ours = encoded_targets(*zeros, vocabulary)
    yield "targets", sum(tensor.nbytes for tensor in ours.values())
    values = np.zeros(kept, np.float16).nbytes
    yield "targets-released", values + np.zeros(kept, np.int64).nbytes
    yield "target-values", values
    yield "hidden-states", np.zeros((tokens, hidden), np.float16).nbytes
    yield "full-vocabulary", np.zeros((tokens, vocabulary), np.float16).nbytes


@pytest.mark.parametrize(("top_k", "vocabulary"), [(100, 49_152), (7, 128_256)])
def test_bytes_are_those_of_arrays_in_each_layout(top_k: int, vocabulary: int) -> None:
    facts = storage_facts(top_k=top_k, hidden_size=96, vocabulary=vocabulary, tokens=11)
    expected = dict(layouts(top_k, 96, vocabulary, 11))
    assert {name: found.bytes for name, found in facts.items()} == expected
    for name, found in facts.items():
        assert found.bytes_per_token == expected[name] / 11
        assert found.times_smaller == pytest.approx(2 * 96 * 11 / expected[name])
        assert found.basis.startswith("computed: ")


def test_the_factor_of_the_paper() -> None:
    """Section 4.4 of arXiv 2505.24680: up to 40 times, without the indices of the tokens."""
    facts = storage_facts(top_k=100, hidden_size=4096, vocabulary=32_000, tokens=None)
    assert facts["target-values"].times_smaller == 40.96
    assert facts["targets"].times_smaller == pytest.approx(16.384)
    assert {found.bytes for found in facts.values()} == {None}
    released = storage_facts(top_k=100, hidden_size=4096, vocabulary=32_000, tokens=5000 * 2048)[
        "targets-released"
    ]
    assert released.bytes == 10_240_000_000  # Table 11 prints 10G


def test_a_store_of_the_run_is_measured() -> None:
    facts = storage_facts(top_k=100, hidden_size=50, vocabulary=1000, tokens=64, store=(3_000, 10))[
        "store"
    ]
    assert (facts.bytes, facts.bytes_per_token) == (3_000, 300.0)
    assert facts.times_smaller == pytest.approx(1 / 3)
    assert facts.basis.startswith("measured: ")
