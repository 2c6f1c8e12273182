"""Which GPU a job takes when others run beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lpsteps.models import compute
from lpsteps.models.gpu_slots import claim_slot

DEVICES = ["GPU-a", "GPU-b"]


@pytest.fixture(autouse=True)
def no_device_yet() -> Iterator[None]:
    compute.own_gpu.cache_clear()
    yield
    compute.own_gpu.cache_clear()


def test_each_claim_gets_another_device_until_none_is_left(tmp_path: Path):
    slots = [claim_slot(DEVICES, tmp_path) for _ in range(3)]
    assert [slot and slot.index for slot in slots] == [0, 1, None]
    slots[0].release()
    again = claim_slot(DEVICES, tmp_path)
    assert again is not None and again.index == 0
    for slot in (again, slots[1]):
        slot.release()


def test_the_same_device_at_another_position_is_taken_all_the_same(tmp_path: Path):
    """Two jobs may see different devices."""
    first = claim_slot(["GPU-b"], tmp_path)
    second = claim_slot(["GPU-b", "GPU-c"], tmp_path)
    assert first is not None and second is not None
    assert (first.index, second.index) == (0, 1)
    first.release()
    second.release()


def test_what_is_no_regular_file_is_no_lock(tmp_path: Path):
    """In a process of its own, which could be ended if it waited for the pipe's other end."""
    os.mkfifo(tmp_path / "lpsteps-gpu-GPU-a.lock")
    (tmp_path / "lpsteps-gpu-GPU-b.lock").mkdir()
    program = (
        "import sys, pathlib\n"
        "from lpsteps.models.gpu_slots import claim_slot\n"
        f"print(claim_slot({[*DEVICES, 'GPU-c']!r}, pathlib.Path(sys.argv[1])).index)\n"
    )
    claimed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert claimed.stdout == "2\n"


def test_a_killed_process_leaves_no_lock(tmp_path: Path):
    program = (
        "import sys, pathlib, time\n"
        "from lpsteps.models.gpu_slots import claim_slot\n"
        f"slot = claim_slot({DEVICES!r}, pathlib.Path(sys.argv[1]))\n"
        "print(slot.index, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "0\n"
        beside = claim_slot(DEVICES, tmp_path)
        assert beside is not None and beside.index == 1
        other.kill()
    after = claim_slot(DEVICES, tmp_path)
    assert after is not None and after.index == 0
    beside.release()
    after.release()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path):
    target = tmp_path / "file of somebody"
    (tmp_path / "lpsteps-gpu-GPU-a.lock").symlink_to(target)
    slot = claim_slot(DEVICES, tmp_path)
    assert slot is not None and slot.index == 1
    assert not target.exists()
    slot.release()


def test_a_process_keeps_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=DEVICES[index])
    )
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(compute.tempfile, "gettempdir", lambda: str(tmp_path))
    other = claim_slot(DEVICES, tmp_path)
    assert other is not None and other.index == 0
    assert compute.default_device() == torch.device("cuda", 1)
    assert compute.default_device() == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)]
    # A job for which no device is left shares the first.
    compute.own_gpu.cache_clear()
    assert compute.default_device() == torch.device("cuda", 0)
    other.release()


def test_without_a_gpu_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compute.tempfile, "gettempdir", lambda: str(tmp_path))
    assert compute.default_device() == torch.device("cpu")
    assert list(tmp_path.iterdir()) == []
