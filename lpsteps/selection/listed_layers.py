"""Layers that are named by hand, for instance the ones that a paper prints."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lpsteps.errors import LpstepsError
from lpsteps.selection.base import Need, SelectionContext
from lpsteps.selection.ranking import Candidate, Kind, Ranking, ranked

TITLE: Final = "Listed layers"
PAPER: Final = ""
KIND: Final[Kind] = "single"
NEEDS: Final[frozenset[Need]] = frozenset()


class Params(BaseModel):
    """The list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="Layers in the order of their removal; the first n go"
    )

    @field_validator("layers")
    @classmethod
    def _each_layer_once(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        for layer in layers:
            if layers.count(layer) > 1:
                raise ValueError(f"{layer}: listed more than once; a layer can go only once")
        return layers


def unsuited(params: Params, n: int, n_layers: int) -> str | None:
    """Return why the list has no n layers of the model, or None."""
    if max(params.layers) >= n_layers:
        return f"lists layer {max(params.layers)}, which a model of {n_layers} layers does not have"
    if n > len(params.layers):
        return f"lists {len(params.layers)} layers, which is too few to remove {n}"
    return None


def rank(context: SelectionContext, params: Params) -> Ranking:
    """Rank the listed layers by their place in the list; the others have no score and stay.

    Raises:
        LpstepsError: The model does not have one of the layers.
    """
    for layer in params.layers:
        if layer >= context.n_layers:
            raise LpstepsError(f"layers: {layer}: the model has layers 0 to {context.n_layers - 1}")
    places = {layer: float(place) for place, layer in enumerate(params.layers, start=1)}
    candidates = (
        Candidate((layer,), places.get(layer), eligible=layer in places)
        for layer in range(context.n_layers)
    )
    return Ranking(KIND, ranked(candidates))
