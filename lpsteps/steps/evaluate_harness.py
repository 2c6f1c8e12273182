"""Score one variant on a suite of multiple-choice benchmarks, one score file for each.

    python -m lpsteps.steps.evaluate_harness --model resources/models/M/manifest.json \
        --compute results/M/compute.json --plan PLAN --patch-manifest PATCH \
        --data piqa=resources/data/piqa/manifest.json --score piqa=scores/piqa.json \
        --spec SPEC

where SPEC is `{"model": "M", "variant": "dense", "batch_tokens": 512, "add_bos": false, "limits":
{"piqa": 40}, "benchmarks": {"piqa": {"protocol": "harness", "task": "piqa", ...}}}`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from lpsteps.errors import LpstepsError, nearest
from lpsteps.evaluation.harness import PackedModel, score_benchmark
from lpsteps.evaluation.harness_settings import HarnessSettings
from lpsteps.evaluation.score import Samples, Score, write_score
from lpsteps.evaluation.variant import (
    VariantSpec,
    add_score_arguments,
    add_variant_arguments,
    load_variant,
    paths_by_benchmark,
)
from lpsteps.models.tokenizer import load_tokenizer
from lpsteps.program import StepRun, run_step
from lpsteps.validation import validated


class HarnessSpec(VariantSpec):
    """What the step reads from its spec.

    Attributes:
        benchmarks: The suite.
        limits: How many documents to score of a benchmark, spread evenly over the split, or over
            each task's where it has several; all of them when it is not named or None.
        add_bos: Whether every context starts with the beginning-of-sequence token.
    """

    benchmarks: dict[str, HarnessSettings] = Field(min_length=1)
    limits: dict[str, PositiveInt | None] = Field(default_factory=dict)
    add_bos: bool


def split_file(manifest_path: Path, manifest: dict[str, Any], split: str) -> tuple[Path, str]:
    """Return path and sha256 of a split in a data folder.

    Raises:
        LpstepsError: The folder has no such split.
    """
    splits = {Path(name).stem: name for name in manifest["files"]}
    if split not in splits:
        raise LpstepsError(f"{manifest_path}: split: {split}: {nearest(split, splits)}")
    name = splits[split]
    return manifest_path.parent / name, manifest["files"][name]["sha256"]


def _add_arguments(parser: ArgumentParser) -> None:
    add_variant_arguments(parser)
    add_score_arguments(parser)
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="BENCHMARK=PATH",
        help="manifest of the folder with a benchmark's dataset; once per benchmark",
    )


def _run(step: StepRun, arguments: Namespace) -> None:
    spec = validated(HarnessSpec, step.spec, "--spec")
    data_paths = paths_by_benchmark("--data", arguments.data, list(spec.benchmarks))
    score_paths = paths_by_benchmark("--score", arguments.score, list(spec.benchmarks))
    model, settings = load_variant(step, arguments)
    packed = PackedModel(
        model,
        load_tokenizer(arguments.model.parent),
        add_bos=spec.add_bos,
        batch_tokens=spec.batch_tokens,
    )
    for name, benchmark in spec.benchmarks.items():
        manifest = step.read_manifest(data_paths[name])
        data, data_digest = split_file(data_paths[name], manifest, benchmark.split)
        used = {"data_sha256": data_digest, "split": benchmark.split}
        fewshot = None
        if benchmark.fewshot_split is not None:
            fewshot, used["fewshot_sha256"] = split_file(
                data_paths[name], manifest, benchmark.fewshot_split
            )
            used["fewshot_split"] = benchmark.fewshot_split
        result = score_benchmark(
            packed,
            benchmark,
            data,
            limit=spec.limits.get(name),
            fewshot=fewshot,
            seed=spec.seed,
        )
        n = len(result.outcomes)
        step.logger.info("%s: %.2f %% (%d of %d)", name, result.value, n, benchmark.total)
        score = Score(
            model=spec.model,
            variant=spec.variant,
            benchmark=name,
            protocol=benchmark.protocol,
            metric=benchmark.metric,
            value=result.value,
            unit=benchmark.unit,
            stderr=result.stderr,
            n=n,
            limited=n < benchmark.total,
            total=benchmark.total,
            settings=settings | result.settings | used,
            samples=Samples(ids=result.ids, values=result.outcomes),
        )
        write_score(step.write(score_paths[name]), score)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's docstring for the command line."""
    return run_step("lpsteps.steps.evaluate_harness", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
