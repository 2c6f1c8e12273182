"""The model and the text that a method gets when statistics are not enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class ModelInput:
    """A model to run and the text to run it on.

    Attributes:
        folder: Folder of the dense model.
        compute: The ``compute.json`` that says in which dtype and where it runs.
        windows: Token ids ``[windows, length]``, int64.
    """

    folder: Path
    compute: Path
    windows: npt.NDArray[np.int64]

    def load(self) -> PreTrainedModel:
        """Set up torch and load the dense model, for inference, in the dtype chosen for it.

        Raises:
            LpstepsError: ``compute.json`` is malformed or names a device that is not there, or the
                folder does not hold a model.
        """
        from lpsteps.models.loading import configure_torch, load_model, read_compute

        configure_torch()
        compute = read_compute(self.compute)
        return load_model(self.folder, compute.dtype, device=compute.device)
