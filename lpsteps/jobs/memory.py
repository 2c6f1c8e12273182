"""How much memory a job asks for, in megabytes."""

from __future__ import annotations

from lpsteps import methods
from lpsteps.config import Config
from lpsteps.config.definitions import Model
from lpsteps.jobs.distillations import distilled
from lpsteps.jobs.recoveries import recovery_method, recovery_needs
from lpsteps.jobs.selections import selection_needs
from lpsteps.jobs.text import training_length
from lpsteps.recovery.base import moments_kind
from lpsteps.repair_text import RepairParams


def memory_mb(config: Config, model: str) -> int:
    """Return the memory for a job that runs a model: float32 weights plus working space."""
    return 2500 + config.definitions.models[model].parameters * 4 // 10**6


def activations_mb(entry: Model, tokens: int) -> int:
    """Return the memory for what a gradient needs of all layers, each about 16 times its input."""
    return tokens * entry.n_layers * entry.hidden_size * 16 * 4 // 10**6


def choose_dtype_mb(config: Config, model: str) -> int:
    """Return the memory for a layer in float32 and in bfloat16, four times as wide as its input."""
    return 1500 + 4 * (4 + 2) * config.definitions.models[model].hidden_size ** 2 // 10**6


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
    return 4 * matrices * 8 * hidden_size**2 // 10**6


def build_patch_mb(config: Config, model: str, n: int, recovery: str) -> int:
    """Return the memory for a patch: of its work, of the moments that it reads, of the model twice.

    A repair that runs the model trains a part of it or holds a repaired copy.
    """
    needs = recovery_needs(config, recovery)
    megabytes = 2 * memory_mb(config, model) if "model" in needs else 1000
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


def rank_layers_mb(config: Config, model: str, selection: str) -> int:
    """Return the memory for a ranking: of statistics, or of a model and as much for gradients.

    A metric that takes gradients also needs the activations of a batch in all layers, one that
    repairs its candidates two float64 matrices for every layer.
    """
    if "model" not in selection_needs(config, selection):
        return 1000
    entry = config.definitions.models[model]
    megabytes = memory_mb(config, model) + entry.parameters * 4 // 10**6
    chosen = config.definitions.selections[selection]
    metric = methods.selection_method(chosen.metric)
    megabytes += activations_mb(entry, methods.gradient_tokens(metric, chosen.params))
    if issubclass(metric.Params, RepairParams):
        megabytes += 2 * entry.n_layers * entry.hidden_size**2 * 8 // 10**6
    return megabytes


def overheads_mb(config: Config, model: str) -> int:
    """Return the memory for measuring costs: of the model, and of one layer on the whole batch.

    A layer's activations are about as large as 16 times its input.
    """
    settings, hidden_size = config.profile.overheads, config.definitions.models[model].hidden_size
    tokens = settings.batch * (settings.length or config.profile.window_length)
    return memory_mb(config, model) + tokens * hidden_size * 16 * 4 // 10**6


def prune_width_mb(config: Config, model: str) -> int:
    """Return the memory for a width pruning: of the model, and as much for gradients."""
    return memory_mb(config, model) + config.definitions.models[model].parameters * 4 // 10**6
