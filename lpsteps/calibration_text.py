"""Which part of the calibration text a method runs the model on, and which part it holds out."""

from __future__ import annotations

from typing import NamedTuple

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


class WantedText(NamedTuple):
    """How much of a calibration's text a method needs.

    Attributes:
        windows: How many windows, at least; None for any number.
        length: How many tokens of each, at least; None for any number.
        heldout: How many windows more are needed behind these.
    """

    windows: int | None = None
    length: int | None = None
    heldout: int = 0

    def lacking(self, windows: int, length: int, text: str = "the calibration text") -> str | None:
        """Return why a text is not enough, or None where it is.

        Args:
            windows: How many windows it has.
            length: How many tokens each has.
            text: What to call it.
        """
        wanted = windows if self.windows is None else self.windows
        tokens = length if self.length is None else self.length
        if wanted + self.heldout <= windows and tokens <= length:
            return None
        heldout = f" and {self.heldout} held out" if self.heldout else ""
        return (
            f"windows: {wanted} x {tokens} tokens{heldout}: {text} has {windows} x {length}; ask "
            "for less or calibrate on more"
        )


class TextParams(BaseModel):
    """The part of the calibration text to use: the first tokens of the first windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(ge=1, description="Calibration windows to run the model on")
    length: int = Field(ge=2, description="Tokens of each window to use")

    @property
    def wanted_text(self) -> WantedText:
        """The text that is needed."""
        return WantedText(self.windows, self.length)


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
    lacking = params.wanted_text.lacking(*windows.shape)
    if lacking is not None:
        raise LpstepsError(lacking)
    return windows[: params.windows, : params.length]
