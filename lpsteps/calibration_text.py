"""Which part of the calibration text a method runs the model on, and which part it holds out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.errors import LpstepsError

# One window in this many is held out.
_HELDOUT_SHARE = 8


def heldout_windows(count: int) -> int:
    """Return how many windows at the end are held out from a fit: an eighth, at least one.

    Args:
        count: All windows.

    Raises:
        LpstepsError: None would be left to fit to.
    """
    if count < 2:
        raise LpstepsError(
            f"windows: {count}: one is held out, so at least 2 are needed; calibrate on more"
        )
    return max(1, count // _HELDOUT_SHARE)


class TextParams(BaseModel):
    """The part of the calibration text to use: the first tokens of the first windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(ge=1, description="Calibration windows to run the model on")
    length: int = Field(ge=2, description="Tokens of each window to use")


def text_to_use(windows: npt.NDArray[np.int64], params: TextParams) -> npt.NDArray[np.int64]:
    """Return the part of the calibration text that the parameters ask for.

    Args:
        windows: All token ids, ``[windows, length]``.
        params: How many of them to use.

    Returns:
        Token ids ``[params.windows, params.length]``.

    Raises:
        LpstepsError: There are fewer windows, or shorter ones, than asked for.
    """
    available, length = windows.shape
    if available < params.windows or length < params.length:
        raise LpstepsError(
            f"windows: {params.windows} x {params.length} tokens: the calibration text has "
            f"{available} x {length}; ask for less or calibrate on more"
        )
    return windows[: params.windows, : params.length]
