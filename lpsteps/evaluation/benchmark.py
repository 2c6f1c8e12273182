"""Benchmarks as data: one YAML file each in the folder `benchmarks/` beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lpsteps.definition_files import definition_path, list_definitions, read_yaml_file
from lpsteps.errors import LpstepsError, nearest
from lpsteps.evaluation.harness_settings import HarnessSettings
from lpsteps.evaluation.perplexity_settings import PerplexitySettings
from lpsteps.validation import validated

BENCHMARK_FOLDER = Path(__file__).parent / "benchmarks"


class _Display(BaseModel):
    """What is said about a benchmark; no score depends on it.

    Attributes:
        title: Name in the model card of an export, and wherever no table says another one.
    """

    title: str

    def scoring(self) -> dict[str, Any]:
        """The part that scores depend on, as plain data: a new title rescores nothing."""
        return self.model_dump(mode="json", exclude=set(_Display.model_fields))


class HarnessBenchmark(_Display, HarnessSettings):
    """A benchmark of questions."""


class PerplexityBenchmark(_Display, PerplexitySettings):
    """A benchmark of running text."""


Benchmark = HarnessBenchmark | PerplexityBenchmark

_PROTOCOLS: dict[str, type[HarnessBenchmark] | type[PerplexityBenchmark]] = {
    "harness": HarnessBenchmark,
    "perplexity": PerplexityBenchmark,
}


def parse_benchmark(content: Any, source: str) -> Benchmark:
    """Check the content of a benchmark file.

    Args:
        content: The parsed YAML.
        source: Where it comes from, for the message.

    Raises:
        LpstepsError: A key is unknown or missing, or has a value that is not allowed.
    """
    if not isinstance(content, dict):
        raise LpstepsError(f"{source}: expected a mapping of keys to values, 'protocol' among them")
    protocol = content.get("protocol")
    if protocol not in _PROTOCOLS:
        raise LpstepsError(f"{source}: protocol: {protocol}: {nearest(str(protocol), _PROTOCOLS)}")
    return validated(_PROTOCOLS[protocol], content, source)


def list_benchmarks(folder: Path = BENCHMARK_FOLDER) -> list[str]:
    """Names of all benchmarks, sorted."""
    return list_definitions(folder)


def load_benchmark(name: str, folder: Path = BENCHMARK_FOLDER) -> Benchmark:
    """Read one benchmark.

    Args:
        name: File name without `.yaml`.
        folder: Where the files are.

    Raises:
        LpstepsError: There is no such benchmark (the message has the nearest name), or its file is
            wrong.
    """
    path = definition_path("benchmark", name, folder)
    return parse_benchmark(read_yaml_file(path), str(path))
