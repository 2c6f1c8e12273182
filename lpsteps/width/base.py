"""What a width pruning method is given.

Width pruning removes attention heads and MLP channels and leaves every layer where it is. A method
is one module of this package. It defines:

``TITLE``, ``PAPER``
    Name and source (a URL).
``Params``
    A frozen pydantic model of its parameters, with a description of every field.
``prune(context, params)``
    The work: a :class:`~lpsteps.width_pruning.WidthPruning` that makes the model smaller by as many
    parameters as ``context.n`` whole layers have.
``unsuited(params, n, n_layers)``
    Why the method cannot take away the parameters of n layers from a model of n_layers, in a few
    words, or None where it may.
``COUNTS_EVERY_TOKEN``
    True in a method that reads :attr:`lpsteps.inputs.ModelInput.windows`: the config is refused
    where it would meet a calibration that excludes tokens.

Where ``Params`` has a property ``wanted_text``, a
:class:`~lpsteps.calibration_text.WantedText`, the config is refused where the calibration has less.

The workflow imports these modules to check a configuration, so their import must be cheap:
inputs come in through the context, and heavy libraries are imported inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpsteps.inputs import ModelInput


@dataclass(frozen=True, eq=False)
class WidthContext:
    """The inputs of a width pruning.

    Attributes:
        n: Number of whole layers that have as many parameters as are to go.
        model: Model and calibration text.
    """

    n: int
    model: ModelInput
