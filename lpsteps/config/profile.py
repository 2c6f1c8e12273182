"""What to run: the keys of a profile, and a profile with everything that it refers to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from lpsteps.artifacts import canonical_json, sha256_bytes
from lpsteps.config.definitions import Definitions
from lpsteps.config.entries import GenericResource, Name, Ordered, Positive, Section
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.evaluation.benchmark import Benchmark
from lpsteps.report.definitions import TableDefinition
from lpsteps.report.figure_definitions import FigureDefinition


class Suite(Section):
    """Benchmarks that one job scores together."""

    protocol: Literal["perplexity", "harness"] = Field(description="How the benchmarks are scored")
    benchmarks: Ordered[Name, Positive | None] = Field(
        description="Benchmark -> number of windows or documents to score, null for all of them"
    )
    add_bos: bool | None = Field(
        default=None,
        description="Put the BOS token in front of every question; null: as the model's entry "
        "says. Running text follows that entry always",
    )

    @field_validator("add_bos")
    @classmethod
    def _only_questions_have_their_own(
        cls, value: bool | None, info: ValidationInfo
    ) -> bool | None:
        if value is not None and info.data.get("protocol") == "perplexity":
            raise ValueError(
                f"{str(value).lower()}: running text begins as `add_bos` of the model's entry "
                "says; set it there"
            )
        return value


class OverheadSettings(Section):
    """How the costs of a patch and of what it is compared with are measured."""

    batch: Positive = Field(default=1, description="Windows that run together")
    length: Positive | None = Field(
        default=None,
        description="Tokens of each; null: the profile's window length, or what the model takes in "
        "front of one more token",
    )
    repetitions: int = Field(default=100, ge=2, description="Turns to time")
    seconds: float = Field(
        default=30.0, gt=0, description="Time for the prefill, and for decoding one more token"
    )


class Profile(Section):
    """What to run."""

    definitions: tuple[str, ...] = Field(description="Definition files, relative to the project")
    tables: dict[Name, dict[Name, tuple[Positive, ...]]] = Field(
        description="Table -> model -> numbers of layers to remove"
    )
    figures: dict[Name, dict[Name, tuple[Positive, ...]]] = Field(
        default={}, description="Figure -> model -> numbers of layers to remove"
    )
    suites: dict[Name, Suite] = Field(
        description="Which benchmarks are scored, on how many samples"
    )
    calibration: Name = Field(description="Entry of `calibrations` that all variants use")
    training_text: Name | None = Field(
        default=None,
        description="Entry of `training_texts` that distilled recoveries are trained on",
    )
    overheads: OverheadSettings = Field(
        default=OverheadSettings(), description="How tables of costs are measured"
    )
    window_length: int = Field(default=2048, ge=2, description="Tokens per window of running text")
    batch_tokens: Positive = Field(
        default=2048, description="Tokens per forward pass in evaluation"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Type that the model runs in; auto measures which is faster"
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything random")
    data_root: str | None = Field(default=None, description="Folder with local dataset files")
    model_root: str | None = Field(
        default=None,
        description="Folder with local models, each in `owner/name` of its repository or in a "
        "folder called as its entry; they are taken before the hub's",
    )
    hub_data: bool = Field(
        default=False, description="Take datasets from the hub that are in no other place"
    )
    gpu_gres: GenericResource | None = Field(
        default=None,
        description="Name of the GPUs on a Slurm cluster that offers them only through --gres: "
        "`gpu` or `gpu:TYPE`; null: asked for by their number",
    )


ONLY_REQUESTS = frozenset({"gpu_gres"})
"""Keys of a profile that say what a job asks a cluster for, and nothing of what it makes."""


class Config(Section):
    """A checked profile together with everything that it refers to.

    Attributes:
        source: Where it comes from, for messages.
        files: The files of the profile.
        overrides: What the command line's ``--config`` gave beside them, without what says only
            what jobs ask a cluster for.
        profile: The profile.
        definitions: The content of its definition files.
        tables: The tables that it shows.
        figures: The figures that it shows.
        benchmarks: All benchmarks.
    """

    source: str
    files: tuple[str, ...]
    overrides: dict[str, Any]
    profile: Profile
    definitions: Definitions
    tables: dict[str, TableDefinition]
    figures: dict[str, FigureDefinition]
    benchmarks: dict[str, Benchmark]

    def digest(self) -> str:
        """Return a digest of everything that settings of jobs are made of."""
        content = self.model_dump(mode="json", exclude={"source", "files", "overrides"})
        return sha256_bytes(canonical_json(content).encode())

    def window_length(self, corpus: str) -> int:
        """Return the tokens of each window of an entry of ``corpora``."""
        return self.definitions.corpora[corpus].length or self.profile.window_length

    def distillation(self, name: str) -> DistillationSettings:
        """Return the checked settings of an entry of ``distillations``.

        Its windows are those that the profile's training text states, if it states none itself.
        """
        settings = DistillationSettings.model_validate(self.definitions.distillations[name])
        text = self.definitions.training_texts.get(self.profile.training_text or "")
        if text is None or settings.windows is not None:
            return settings
        return settings.model_copy(update={"windows": text.windows})

    def lacking_text(self, distillation: str) -> str | None:
        """Return why the profile's training text does not do for a distillation, or None."""
        if self.profile.training_text is None:
            return "is trained, and the profile names no training text"
        text = self.definitions.training_texts.get(self.profile.training_text)
        wanted = self.distillation(distillation).windows
        if text is None or wanted is None or text.available is None or wanted <= text.available:
            return None
        return f"asks for {wanted} windows of training text, of which there are {text.available}"
