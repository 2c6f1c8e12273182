"""No recovery: the layers are deleted and the rest is joined as it is."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from lpsteps.patches import PatchSet
from lpsteps.recovery.base import Need, RecoveryContext

TITLE: Final = "None"
PAPER: Final = ""
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """There is nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Return no patches."""
    return PatchSet()
