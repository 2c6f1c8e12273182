"""Look for NaN and infinities in safetensors files, whatever reads them later."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from lpsteps.errors import LpstepsError

_EXPONENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "F64": (np.dtype("<u8"), 0x7FF0000000000000),
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}
"""Words of each type of numbers, and the bits of its exponent: all set for NaN and infinities."""

_BLOCK = 1 << 24


def check_finite(path: Path) -> None:
    """Check that every number of a file of weights is finite.

    The bits are looked at as they lie in the file, block by block, so that memory stays small and
    types that NumPy does not have are checked, too.

    Args:
        path: A safetensors file whose header is known to be valid.

    Raises:
        LpstepsError: A tensor holds NaN or an infinity; the message names it.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        header.pop("__metadata__", None)
        for name, facts in sorted(header.items()):
            if facts["dtype"] not in _EXPONENTS:
                continue
            dtype, exponent = _EXPONENTS[facts["dtype"]]
            first, end = facts["data_offsets"]
            for offset in range(start + first, start + end, _BLOCK):
                count = (min(offset + _BLOCK, start + end) - offset) // dtype.itemsize
                words = np.frombuffer(raw[offset : offset + count * dtype.itemsize], dtype)
                if (words & dtype.type(exponent) == exponent).any():
                    raise LpstepsError(
                        f"{path}: {name}: holds NaN or an infinity; take another copy of the model"
                    )
