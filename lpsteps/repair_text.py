"""The text of the selections that judge a cut after its repair: one part to fit, one to judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.calibration_text import WantedText
from lpsteps.errors import LpstepsError


class RepairParams(BaseModel):
    """How cuts are repaired for their judgement, and on how much of the calibration text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(ge=1, description="Calibration windows that repairs are fitted to")
    heldout: int = Field(ge=1, description="Windows behind these that repaired cuts are judged on")
    length: int | None = Field(
        default=None, ge=2, description="Tokens of each window to use; null: all"
    )
    relative_ridge: float = Field(
        default=1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Ridge that draws a repair to none, in units of the mean eigenvalue of A'A",
    )

    @property
    def wanted_text(self) -> WantedText:
        """The text that is needed."""
        return WantedText(self.windows, self.length, self.heldout)


def split_text(
    windows: npt.NDArray[np.int64], params: RepairParams
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return two disjoint parts of the calibration text: what to fit to, and what to judge on.

    Args:
        windows: All token ids, ``[windows, length]``.
        params: How many of them to use.

    Returns:
        Token ids ``[params.windows, length]`` and ``[params.heldout, length]``.

    Raises:
        LpstepsError: There are fewer windows, or shorter ones, than asked for.
    """
    lacking = params.wanted_text.lacking(*windows.shape)
    if lacking is not None:
        raise LpstepsError(lacking)
    used = windows[: params.windows + params.heldout, : params.length]
    return used[: params.windows], used[params.windows :]
