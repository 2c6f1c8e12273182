"""What is said of activations that overflow the number type in which the model runs."""

from __future__ import annotations

import torch

from lpsteps.errors import LpstepsError


def overflow_error(dtype: torch.dtype, window: int | None = None) -> LpstepsError:
    """Return the error for activations that are not finite.

    Args:
        dtype: In which the model computed them.
        window: Number of the window where they were found; None where several were looked at.
    """
    where = "windows" if window is None else f"windows: {window}"
    name = str(dtype).removeprefix("torch.")
    return LpstepsError(f"{where}: activations are not finite in {name}; set dtype: float32")
