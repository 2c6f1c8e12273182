"""Measure the perplexity of one variant on a suite of texts, one score file for each.

    python -m lpsteps.steps.evaluate_perplexity --model resources/models/M/manifest.json \
        --compute results/M/compute.json --plan PLAN --patch-manifest PATCH \
        --windows novels=results/M/windows/novels/test.parquet --score novels=scores/novels.json \
        --spec SPEC

where SPEC is `{"model": "M", "variant": "dense", "batch_tokens": 2048, "windows": {"novels": 8},
"benchmarks": {"novels": {"protocol": "perplexity", "corpus": "novels", "split": "test", ...}}}`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import numpy as np
from pydantic import Field, PositiveInt

from lpsteps.data.window_file import read_windows
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.perplexity import perplexity, window_losses
from lpsteps.evaluation.perplexity_settings import PerplexitySettings
from lpsteps.evaluation.score import Samples, Score, write_score
from lpsteps.evaluation.variant import (
    VariantSpec,
    add_score_arguments,
    add_variant_arguments,
    load_variant,
    paths_by_benchmark,
)
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated


class PerplexitySpec(VariantSpec):
    """What the step reads from its spec.

    Attributes:
        benchmarks: The suite.
        windows: How many windows to score of a benchmark, the first ones of the file; all of them
            when it is not named or None.
    """

    benchmarks: dict[str, PerplexitySettings] = Field(min_length=1)
    windows: dict[str, PositiveInt | None] = Field(default_factory=dict)


def _add_arguments(parser: ArgumentParser) -> None:
    add_variant_arguments(parser)
    add_score_arguments(parser)
    parser.add_argument(
        "--windows",
        action="append",
        required=True,
        metavar="BENCHMARK=PATH",
        help="windows of a benchmark, Parquet; once per benchmark",
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(PerplexitySpec, step.spec, "--spec")
    window_paths = paths_by_benchmark("--windows", arguments.windows, list(spec.benchmarks))
    score_paths = paths_by_benchmark("--score", arguments.score, list(spec.benchmarks))
    model, settings = load_variant(step, arguments)
    for name, benchmark in spec.benchmarks.items():
        windows = read_windows(step.read(window_paths[name]))
        total, length = windows.shape
        losses = window_losses(
            model,
            windows[: spec.windows.get(name)],
            batch=max(1, spec.batch_tokens // length),
        )
        broken = np.flatnonzero(~np.isfinite(losses))
        if len(broken) > 0:
            raise LpstepsError(
                f"{name}: window {broken[0]}: the loss is not finite; set dtype: float32"
            )
        result = perplexity(losses)
        step.logger.info("%s: %.4f (%d of %d windows)", name, result.value, len(losses), total)
        score = Score(
            model=spec.model,
            variant=spec.variant,
            benchmark=name,
            protocol=benchmark.protocol,
            metric=benchmark.metric,
            value=result.value,
            unit=benchmark.unit,
            stderr=result.stderr,
            n=len(losses),
            limited=len(losses) < total,
            total=total,
            settings=settings
            | {"corpus": benchmark.corpus, "split": benchmark.split, "window_length": length},
            samples=Samples(ids=list(range(len(losses))), values=losses),
        )
        write_score(step.write(score_paths[name]), score)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's docstring for the command line."""
    return run_step("lpsteps.steps.evaluate_perplexity", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
