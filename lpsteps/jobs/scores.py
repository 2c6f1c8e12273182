"""What evaluations read, and their settings."""

from __future__ import annotations

from typing import Any

from lpsteps import paths
from lpsteps.config import Config
from lpsteps.evaluation.benchmark import HarnessBenchmark, PerplexityBenchmark


def suite_inputs(config: Config, model: str, suite: str) -> dict[str, str]:
    """Return ``{benchmark: file}``: windows for perplexity, data manifests for the harness."""
    files: dict[str, str] = {}
    for name in config.profile.suites[suite].benchmarks:
        match config.benchmarks[name]:
            case PerplexityBenchmark(corpus=corpus, split=split):
                files[name] = paths.windows(model, corpus, split)
            case HarnessBenchmark(dataset=dataset):
                files[name] = f"resources/data/{dataset}/manifest.json"
    return files


def evaluate_spec(config: Config, model: str, lineage: str, suite: str) -> dict[str, Any]:
    """Return the settings of ``evaluate_perplexity`` and ``evaluate_harness``."""
    entry = config.profile.suites[suite]
    spec = {
        "model": model,
        "variant": lineage,
        "benchmarks": {name: config.benchmarks[name].scoring() for name in entry.benchmarks},
        "batch_tokens": config.profile.batch_tokens,
    }
    if entry.protocol == "perplexity":
        return {**spec, "windows": entry.benchmarks}
    settings = [config.benchmarks[name] for name in entry.benchmarks]
    # It draws the examples of tasks that show some, and nothing else.
    if any(isinstance(one, HarnessBenchmark) and one.shots for one in settings):
        spec["seed"] = config.profile.seed
    of_model = config.definitions.models[model].add_bos
    add_bos = of_model if entry.add_bos is None else entry.add_bos
    return {**spec, "limits": entry.benchmarks, "add_bos": add_bos}
