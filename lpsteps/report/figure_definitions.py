"""Figure definitions: one YAML file per figure in `reports/figures/`.

A profile asks for a figure of some models, each at some numbers of removed layers. What a figure
needs beside the calibration statistics follows from its kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.definition_files import (
    FileDefinition,
    definition_path,
    list_definitions,
    read_definition,
)

FOLDER = Path("reports/figures")

FigureKind = Literal["channel_magnitudes", "token_scales", "layer_magnitudes", "cosine_map"]


class PrintedSpread(BaseModel):
    """A value of sigma_d that the paper prints.

    Attributes:
        model: Entry of ``models``.
        n: Number of removed layers.
        basis: Basis of the ratios.
        value: As printed.
        where: Its place in the paper.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    n: int = Field(ge=1)
    basis: Literal["identity", "hadamard"]
    value: float
    where: str


class FigureDefinition(FileDefinition):
    """One figure of the report.

    Attributes:
        id: Name of the file without suffix.
        number: Number of the figure in the paper, None for a figure of our own.
        title: Heading.
        caption: What is drawn, in plain sentences.
        kind: What is drawn.

            ==================  ================================================================
            channel_magnitudes  mean magnitude of each channel, at every boundary of the layers
                                and at the two ends of the cut
            token_scales        distribution of the token-wise channel scalings across the cut,
                                in the model's own and in the Hadamard basis
            layer_magnitudes    mean and largest channel magnitude behind each layer
            cosine_map          cosine between the streams at the two ends of every window
            ==================  ================================================================
        selection: Whose layers are removed; a selection that removes one window.
        printed: Printed values that stand beside those of ``token_scales``.
    """

    number: int | None = Field(default=None, ge=1)
    title: str
    caption: str
    kind: FigureKind
    selection: str = "llm-streamline"
    printed: tuple[PrintedSpread, ...] = ()

    @property
    def needs_levels(self) -> bool:
        """Whether nothing can be drawn without a number of removed layers."""
        return self.kind != "cosine_map"

    @model_validator(mode="after")
    def _check_printed(self) -> FigureDefinition:
        if self.printed and self.kind != "token_scales":
            raise ValueError("printed: kind token_scales alone has values beside it")
        return self


def read_figure(path: Path) -> FigureDefinition:
    """Read one figure definition.

    Raises:
        LpstepsError: The file is missing, is not YAML, or defines no valid figure; the message
            names the file and the key.
    """
    return read_definition(path, FigureDefinition)


def list_figures(folder: Path = FOLDER) -> list[str]:
    """Return the names of all figure definitions, sorted."""
    return list_definitions(folder)


def load_figure(name: str, folder: Path = FOLDER) -> FigureDefinition:
    """Read the definition of the figure ``name``.

    Raises:
        LpstepsError: There is no such figure (the message has the nearest name), or its file is
            not valid.
    """
    return read_figure(definition_path("figure", name, folder))
