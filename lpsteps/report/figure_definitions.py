"""Figure definitions: one YAML file per figure in `reports/figures/`.

A profile asks for a figure of some models, each at some numbers of removed layers. What a figure
needs beside the calibration statistics follows from its kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.errors import LpstepsError, nearest
from lpsteps.validation import validated

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


class FigureDefinition(BaseModel):
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

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9-]+$")
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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LpstepsError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise LpstepsError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    figure = validated(FigureDefinition, content, str(path))
    if figure.id != path.stem:
        raise LpstepsError(f"{path}: id: '{figure.id}': must be the file's name, '{path.stem}'")
    return figure


def list_figures(folder: Path = FOLDER) -> list[str]:
    """Return the names of all figure definitions, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def load_figure(name: str, folder: Path = FOLDER) -> FigureDefinition:
    """Read the definition of the figure ``name``.

    Raises:
        LpstepsError: There is no such figure (the message has the nearest name), or its file is
            not valid.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise LpstepsError(f"{path}: no such figure: {nearest(name, list_figures(folder))}")
    return read_figure(path)
