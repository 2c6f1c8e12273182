"""What a selection metric is given.

A metric is one module of this package. It defines:

``TITLE``, ``PAPER``
    Name and source (a URL, empty for a baseline without a paper).
``KIND``
    Kind of the ranking that it makes, see :mod:`lpsteps.selection.ranking`.
``NEEDS``
    What it reads: a subset of ``{"statistics", "model"}``.
``Params``
    A frozen pydantic model of its parameters, with a description of every field.
``rank(context, params)``
    The work: a :class:`~lpsteps.selection.ranking.Ranking` of all candidates.
``gradient_tokens(params)``
    Optional: tokens of one backward pass through the model, whose activations a job on a cluster
    asks memory for; none where a metric does not say.
``unsuited(params, n, n_layers)``
    Optional: why it cannot choose n layers of a model of ``n_layers``, or None when it can. Tables
    then leave these levels out before any job runs, and give the reason. A metric whose ``Params``
    are :class:`~lpsteps.selection.ranking.Exemptions` needs none for what is exempt.
``COUNTS_EVERY_TOKEN``
    True in a method that reads :attr:`lpsteps.inputs.ModelInput.windows`: the config is refused
    where it would meet a calibration that excludes tokens.

Where ``Params`` has a property ``wanted_text``, a
:class:`~lpsteps.calibration_text.WantedText`, the config is refused where the calibration has less.

The workflow imports these modules to check a configuration, so their import must be cheap:
statistics come in through the context, and heavy libraries are imported inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lpsteps.errors import LpstepsError

if TYPE_CHECKING:
    from lpsteps.inputs import ModelInput
    from lpsteps.statistics import Statistics

Need = Literal["statistics", "model"]


@dataclass(frozen=True, eq=False)
class SelectionContext:
    """The inputs of a selection.

    Attributes:
        n_layers: Decoder layers of the dense model.
        counts: The numbers of layers to remove for which plans are wanted, ascending.
        seed: Seed of the run, for metrics that draw at random.
        statistics: Calibration statistics, for metrics that need ``"statistics"``.
        model: Model and calibration text, for metrics that need ``"model"``.
    """

    n_layers: int
    counts: tuple[int, ...]
    seed: int = 0
    statistics: Statistics | None = None
    model: ModelInput | None = None

    def needed_statistics(self) -> Statistics:
        """Return the statistics.

        Raises:
            LpstepsError: There are none, or they are of a model with another number of layers.
        """
        if self.statistics is None:
            raise LpstepsError("--stats: required by this selection")
        if self.statistics.n_layers != self.n_layers:
            raise LpstepsError(
                f"--stats: {self.statistics.n_layers} layers: the model has {self.n_layers}"
            )
        return self.statistics

    def needed_model(self) -> ModelInput:
        """Return the model to run.

        Raises:
            LpstepsError: There is none.
        """
        if self.model is None:
            raise LpstepsError("--model, --windows and --compute: required by this selection")
        return self.model
