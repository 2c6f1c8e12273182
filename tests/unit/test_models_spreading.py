"""Models larger than one GPU: what goes where, and that nothing minds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lpsteps.errors import LpstepsError
from lpsteps.models import compute, loading
from lpsteps.models.spreading import SHARE, devices_needed, weight_bytes

CHECKS = Path(__file__).parents[1] / "placed/spread_models.py"


@pytest.mark.parametrize(
    ("size", "free", "count"),
    [
        (0, [100], 1),
        (85, [100], 1),
        (86, [100], None),
        (86, [100, 50], 2),
        (200, [100, 50, 200], 3),
        (300, [100, 50, 200], None),
    ],
)
def test_as_few_devices_as_hold_the_weights(size: int, free: list[int], count: int | None):
    assert SHARE == 0.85
    assert devices_needed(size, free) == count


def test_tied_weights_count_once(tiny_model: Any):
    untied = weight_bytes(tiny_model("llama", tie_word_embeddings=False))
    tied = weight_bytes(tiny_model("llama", tie_word_embeddings=True))
    assert untied - tied == 128 * 48 * 4


def test_everything_that_runs_a_model_runs_one_on_two_devices():
    """In a process of its own: to torch the devices are those of a new kind of hardware."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", CHECKS],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout


class Gpus:
    """CUDA devices in name only, each with some free memory, some of them locked by others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: list[int], taken: set[int]) -> None:
        self.spread: list[tuple[list[int], list[int]]] = []
        self.claimed = list(taken)
        compute.further_gpus.cache_clear()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free[index], free[index]))
        monkeypatch.setattr(loading, "claim_gpu", lambda besides: self.claim(len(free), besides))
        monkeypatch.setattr(loading, "spread", self.note)

    def claim(self, count: int, besides: list[int]) -> int | None:
        found = [i for i in range(count) if i not in self.claimed and i not in besides]
        self.claimed += found[:1]
        return found[0] if found else None

    def note(self, model: Any, devices: list[torch.device], free: list[int]) -> None:
        self.spread.append(([device.index for device in devices], free))


class Model:
    """As much of a model as its placement looks at."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.moved: list[torch.device] = []

    def parameters(self) -> list[Any]:
        return [torch.empty(self.size, dtype=torch.uint8, device="meta")]

    def buffers(self) -> list[Any]:
        return []

    def to(self, device: torch.device) -> Model:
        self.moved.append(device)
        return self


def test_a_model_that_fits_goes_to_its_own_gpu(monkeypatch: pytest.MonkeyPatch):
    gpus, model = Gpus(monkeypatch, [100, 100], {0}), Model(85)
    own = torch.device("cuda", 0)
    assert loading.move_to_device(model, own) is model
    assert model.moved == [own] and gpus.spread == [] and gpus.claimed == [0]


def test_a_larger_one_takes_the_next_that_are_free(monkeypatch: pytest.MonkeyPatch):
    gpus = Gpus(monkeypatch, [100, 100, 50, 100], {0, 1})
    own = torch.device("cuda", 0)
    loading.move_to_device(Model(100), own)
    assert gpus.spread == [([0, 2], [100, 50])] and gpus.claimed == [0, 1, 2]
    # A second model of the job goes to the same devices, and to more where it needs them.
    loading.move_to_device(Model(60), own, copies=3)
    assert gpus.spread[1:] == [([0, 2, 3], [100, 50, 100])]


def test_the_only_gpu_is_tried(monkeypatch: pytest.MonkeyPatch):
    gpus, own = Gpus(monkeypatch, [100, 100], {0, 1}), torch.device("cuda", 0)
    for model, copies in ((Model(95), 1), (Model(60), 2)):
        loading.move_to_device(model, own, copies=copies)
        assert model.moved == [own] and gpus.spread == []
    with pytest.raises(LpstepsError, match=r"that are free on the 1 GPUs"):
        loading.move_to_device(Model(101), own)


def test_one_that_does_not_fit_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    Gpus(monkeypatch, [10**9, 10**9, 10**9], {0, 2})
    message = (
        r"2\.0 GB for weights do not fit into 85% of the 2\.0 GB that are free on the 2 GPUs that "
        r"this job can have; let it have more \(gpus of the model"
    )
    with pytest.raises(LpstepsError, match=message):
        loading.move_to_device(Model(10**9), torch.device("cuda", 0), copies=2)
