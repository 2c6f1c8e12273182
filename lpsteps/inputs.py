"""The model and the text that a method gets when statistics are not enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lpsteps.errors import LpstepsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class ModelInput:
    """A model to run and the text to run it on.

    Attributes:
        folder: Folder of the dense model.
        compute: The ``compute.json`` that says in which dtype and where it runs.
        text: The windows of the calibration, token ids ``[windows, length]``, int64.
        exclude_first: Tokens at the start of each window that are read but must not count. A method
            that can leave them out reads ``text``, any other ``windows``.
    """

    folder: Path
    compute: Path
    text: npt.NDArray[np.int64]
    exclude_first: int = 0

    @property
    def windows(self) -> npt.NDArray[np.int64]:
        """The text, for methods in which every token counts.

        Raises:
            LpstepsError: The calibration excludes tokens.
        """
        if self.exclude_first:
            raise LpstepsError(
                f"calibration: exclude_first: {self.exclude_first}: this method counts every token "
                "that it runs the model on; set it to 0, or use a method that reads statistics or "
                "moments"
            )
        return self.text

    def load(self, copies: float = 1, *, in_float32: bool = False) -> PreTrainedModel:
        """Set up torch and load the dense model, for inference, in the dtype chosen for it.

        Args:
            copies: How many times its weights' memory is going to be needed.
            in_float32: Whether the method casts the weights to float32.

        Raises:
            LpstepsError: ``compute.json`` is malformed or names a device that is not there, or the
                folder does not hold a model.
        """
        from lpsteps.models.causal_attention import use_causal_attention
        from lpsteps.models.compute import configure_torch, read_compute
        from lpsteps.models.loading import load_model

        configure_torch()
        compute = read_compute(self.compute)
        if in_float32:
            copies *= 4 / compute.dtype.itemsize
        model = load_model(self.folder, compute.dtype, device=compute.device, copies=copies)
        use_causal_attention(model)
        return model

    def facts(self) -> dict[str, str | int]:
        """Return what a step's record says of a run: dtype, device and number of threads.

        Raises:
            LpstepsError: ``compute.json`` is malformed or names a device that is not there.
        """
        from lpsteps.models.compute import configure_torch, read_compute

        threads = configure_torch()
        compute = read_compute(self.compute)
        dtype = compute.dtype_name
        return {"dtype": dtype, "device": compute.device.type, "threads": threads}
