"""How much memory a job asks for, in megabytes.

Requests are bounds with room to spare. What jobs of the default model took at most stands in
docs/profiles.md, by rule.
"""

from __future__ import annotations

from pathlib import Path

from lpsteps import methods
from lpsteps.artifacts import read_json
from lpsteps.config import Config
from lpsteps.config.definitions import Model
from lpsteps.errors import LpstepsError
from lpsteps.jobs.distillations import distilled
from lpsteps.jobs.recoveries import recovery_method, recovery_needs
from lpsteps.jobs.selections import selection_needs
from lpsteps.jobs.text import corpora_manifest, training_length
from lpsteps.recovery.base import moments_kind
from lpsteps.repair_text import RepairParams

FLOAT32, FLOAT64 = 4, 8
"""Bytes of a number."""

PROCESS_MB = 1000
"""A step's interpreter, its libraries and small results. With torch and transformers loaded it has
270 MB before it reads anything; steps without a model took 141 to 270 MB (docs/profiles.md)."""

TEXT_MB = 1500
"""The same for `tokenize_corpus`, which took 528 MB for the embedded corpora."""

TABLES_MB = 1500
"""The same for `build_tables`, which took 141 MB with 169 numbers and grows with their number."""

MODEL_WORK_MB = 2500
"""What runs a model takes beside its float32 weights: the process, a batch's logits, the streams of
a window. Scores took 876 to 1078 MB in all, of a model with 538 MB (docs/profiles.md)."""

OWN_TEXT_MB = 4500
"""Keys and values of the windows that are written side by side: as many as fit into 4 GiB, see
`lpsteps.models.sampling`."""

DTYPE_WORK_MB = 1500
"""The process of `choose_dtype` beside the layer that it times; it took at most 270 MB."""

ACTIVATIONS = 16
"""A layer's activations that a gradient needs, in sizes of its input: counted for a Llama, whose
norms, projections, scores and MLP add up to about so many. It is no measurement."""

STATISTICS_COPIES = 6
"""What reading statistics takes, in sizes of the means of one basis. The file's values, two bases
and a filtered copy are five; 32 and 64 windows of 33 boundaries with 2,048 channels differed
by four at the peak, on Linux with pyarrow."""


TEXT_PER_FILE_BYTE = 3
"""Bytes of text for each of a compressed Parquet file; a guess for natural language."""

TOKENISED = 180
"""Bytes of memory for each of a text that is tokenised in one piece: ids and positions of all
tokens, as Python has them. 0.5 and 2.2 MB of this project's documents took 95 and 178, with
SmolLM2's tokenizer; the process had 419 MB before."""


def tokenize_corpus_mb(config: Config, corpus: str) -> int:
    """Return the memory for cutting a corpus into windows: of its text, and of all tokens at once.

    Random documents are tokenised one by one. How large the dataset is is known once it is there,
    which it is before the job starts; until then, and where its manifest lies in a bucket, the
    request is that for a small one.
    """
    entry = config.definitions.corpora[corpus]
    manifest = Path(corpora_manifest(config, corpus))
    try:
        size: int = read_json(manifest)["files"][f"{entry.split}.parquet"]["bytes"]
    except (LpstepsError, KeyError, TypeError):
        size = 0
    text = TEXT_PER_FILE_BYTE * size
    copies = 2 if entry.sampling == "random" else TOKENISED
    return TEXT_MB + copies * text // 10**6


def statistics_mb(config: Config, model: str, calibration: str) -> int:
    """Return the memory for reading the statistics of a calibration."""
    entry = config.definitions.models[model]
    windows = config.definitions.calibrations[calibration].total_windows
    means = windows * (entry.n_layers + 1) * entry.hidden_size * FLOAT64
    return STATISTICS_COPIES * means // 10**6


def build_tables_mb(config: Config) -> int:
    """Return the memory for tables and figures, which read statistics of one model at a time."""
    read = [
        statistics_mb(config, model, config.profile.calibration)
        for figure, models in config.profile.figures.items()
        if config.figures[figure].kind != "token_scales"
        for model in models
    ]
    return TABLES_MB + max(read, default=0)


def extend_windows_mb(config: Config, model: str) -> int:
    """Return the memory for a model that writes text, with the keys and values of what it wrote."""
    return OWN_TEXT_MB + memory_mb(config, model)


def token_scales_mb(config: Config, model: str) -> int:
    """Return the memory for measuring a model's token-wise scalings, with a plan's streams."""
    return PROCESS_MB + memory_mb(config, model)


def memory_mb(config: Config, model: str) -> int:
    """Return the memory for a job that runs a model: float32 weights plus working space."""
    return MODEL_WORK_MB + _weights_mb(config.definitions.models[model])


def _weights_mb(entry: Model) -> int:
    return entry.parameters * FLOAT32 // 10**6


def activations_mb(entry: Model, tokens: int) -> int:
    """Return the memory for what a gradient needs of all layers."""
    return tokens * entry.n_layers * entry.hidden_size * ACTIVATIONS * FLOAT32 // 10**6


def choose_dtype_mb(config: Config, model: str) -> int:
    """Return the memory for a layer in float32 and in bfloat16, four times as wide as its input."""
    hidden_size = config.definitions.models[model].hidden_size
    bfloat16 = FLOAT32 // 2
    return DTYPE_WORK_MB + 4 * (FLOAT32 + bfloat16) * hidden_size**2 // 10**6


def moments_mb(config: Config, model: str, n: int, kind: str) -> int:
    """Return the memory for a plan's moments while they are measured or read.

    Args:
        config: The config.
        model: Entry of ``models``.
        n: Number of removed layers, each of which may be a gap.
        kind: Kind of the moments.
    """
    matrices = n * (5 if kind == "branch" else 2)
    hidden_size = config.definitions.models[model].hidden_size
    # Sums of the fitted and of the held-out text, and the file's contents beside both of them.
    return 4 * matrices * FLOAT64 * hidden_size**2 // 10**6


def build_patch_mb(config: Config, model: str, calibration: str, n: int, recovery: str) -> int:
    """Return the memory for a patch: of its work, of what it reads, and of the model twice.

    A repair that runs the model trains a part of it or holds a repaired copy.
    """
    needs = recovery_needs(config, recovery)
    megabytes = 2 * memory_mb(config, model) if "model" in needs else PROCESS_MB
    if "statistics" in needs:
        megabytes += statistics_mb(config, model, calibration)
    method, _ = recovery_method(config, recovery)
    entry = config.definitions.models[model]
    # An MLP has two or three matrices of this size; with two, the attention makes up for the third.
    intermediate_size = entry.layer_parameters // (3 * entry.hidden_size)
    megabytes += methods.working_bytes(method, entry.hidden_size, intermediate_size) // 10**6
    kind = moments_kind(needs)
    return megabytes if kind is None else megabytes + moments_mb(config, model, n, kind)


def distill_mb(config: Config, model: str, recovery: str) -> int:
    """Return the memory for a distillation: of the model twice, and of a batch's activations.

    How many layers stand behind the cut is not known before the plan: all are counted.
    """
    entry = config.definitions.models[model]
    settings = config.distillation(distilled(config, recovery).distillation)
    tokens = (settings.micro_batch or settings.batch) * training_length(config)
    return 2 * memory_mb(config, model) + activations_mb(entry, tokens)


def rank_layers_mb(config: Config, model: str, calibration: str, selection: str) -> int:
    """Return the memory for a ranking: of statistics, and of a model and as much for gradients.

    A metric that takes gradients also needs the activations of a batch in all layers, one that
    repairs its candidates two float64 matrices for every layer.
    """
    needs = selection_needs(config, selection)
    read = statistics_mb(config, model, calibration) if "statistics" in needs else 0
    if "model" not in needs:
        return PROCESS_MB + read
    entry = config.definitions.models[model]
    megabytes = memory_mb(config, model) + _weights_mb(entry) + read
    chosen = config.definitions.selections[selection]
    metric = methods.selection_method(chosen.metric)
    megabytes += activations_mb(entry, methods.gradient_tokens(metric, chosen.params))
    if issubclass(metric.Params, RepairParams):
        megabytes += 2 * entry.n_layers * entry.hidden_size**2 * FLOAT64 // 10**6
    return megabytes


def overheads_mb(config: Config, model: str) -> int:
    """Return the memory for measuring costs: of the model, and of one layer on the whole batch."""
    settings, hidden_size = config.profile.overheads, config.definitions.models[model].hidden_size
    tokens = settings.batch * (settings.length or config.profile.window_length)
    return memory_mb(config, model) + tokens * hidden_size * ACTIVATIONS * FLOAT32 // 10**6


def prune_width_mb(config: Config, model: str) -> int:
    """Return the memory for a width pruning: of the model, and as much for gradients."""
    return memory_mb(config, model) + _weights_mb(config.definitions.models[model])
