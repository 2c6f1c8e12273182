"""A GPU of its own for each of the jobs that run side by side on one machine.

Nobody tells a local job of Snakemake which device is its own. Each process locks the first free one
for as long as it lives; a killed process leaves no lock behind.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Slot:
    """A device that this process has locked.

    Attributes:
        index: Position of the device among those that were offered.
        descriptor: The open file that holds the lock.
    """

    index: int
    descriptor: int

    def release(self) -> None:
        """Give the device back."""
        os.close(self.descriptor)


def claim_slot(devices: Sequence[str], folder: Path) -> Slot | None:
    """Lock the first device that no other process has locked.

    Args:
        devices: Names of the devices, which all processes know them by.
        folder: Where the lock files lie; all processes name the same.

    Returns:
        The slot, or None when all are taken or no lock file can be opened.
    """
    for index, name in enumerate(devices):
        descriptor = _open(folder / f"lpsteps-gpu-{name}.lock")
        if descriptor is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        return Slot(index, descriptor)
    return None


def _open(path: Path) -> int | None:
    # A file of another user's in a folder for all can be locked, too, if it is not opened to write.
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CREAT):
        try:
            # A pipe of that name would let an open wait for its other end.
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError:
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    return None
