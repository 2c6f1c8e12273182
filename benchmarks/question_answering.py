"""Multiple-choice questions with shared prefixes beside lm-evaluation-harness called plainly.

Run it with ``make bench-question_answering``. Both run the harness's own evaluation on the same
loaded model and documents. Plainly, every choice is a sequence of its own, one at a time, which is
the harness's default on a CPU.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lm_eval.models.huggingface import HFLM

from benchmarks.inputs import add_model_arguments, read_model
from benchmarks.measure import (
    figure,
    interleaved_seconds,
    median_of_ratios,
    medians,
    run_benchmark,
)
from lpsteps.artifacts import verify_file_manifest
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import HarnessBenchmark, load_benchmark
from lpsteps.evaluation.harness import HarnessScore, PackedModel, score_benchmark
from lpsteps.models.layers import decoder_of
from lpsteps.models.tokenizer import load_tokenizer
from lpsteps.steps.evaluate_harness import split_file

PLAIN, OURS = "lm-eval called plainly", "shared prefixes"
BENCHMARKS = ("arc_challenge", "arc_easy", "boolq", "copa", "hellaswag", "piqa", "winogrande")


def differing_documents(
    scores: Mapping[str, HarnessScore], others: Mapping[str, HarnessScore]
) -> int:
    """Count the documents of all benchmarks whose outcome is not the same in both."""
    return sum(
        own != other
        for name, score in scores.items()
        for own, other in zip(score.outcomes, others[name].outcomes, strict=True)
    )


def measured(arguments: Namespace) -> dict[str, Any]:
    """Measure both; returns what ``results/question_answering.json`` holds."""
    model = read_model(arguments)
    tokenizer = load_tokenizer(arguments.model.parent)
    add_bos = arguments.add_bos
    wrapped: dict[str, HFLM] = {
        PLAIN: HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, add_bos_token=add_bos),
        OURS: PackedModel(model, tokenizer, add_bos=add_bos, batch_tokens=arguments.batch_tokens),
    }
    files = {name: data_file(name, arguments.data) for name in arguments.benchmarks}
    scores: dict[str, dict[str, HarnessScore]] = {}

    def score(contender: str) -> None:
        scores[contender] = {
            name: score_benchmark(
                cast(PackedModel, wrapped[contender]), benchmark, path, limit=arguments.limit
            )
            for name, (benchmark, path) in files.items()
        }

    seconds = interleaved_seconds(
        {name: lambda name=name: score(name) for name in wrapped},  # type: ignore[misc]
        arguments.repetitions,
    )
    return {
        "settings": {
            "batch_tokens": arguments.batch_tokens,
            "benchmarks": list(files),
            "documents": sum(len(score.outcomes) for score in scores[OURS].values()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "layers": len(decoder_of(model).layers),
            "repetitions": arguments.repetitions,
        },
        "figures": [
            figure(
                "time over that of lm-eval called plainly",
                median_of_ratios(seconds[OURS], seconds[PLAIN]),
                at_most=1.0,
            ),
            figure(
                "documents with another outcome",
                differing_documents(scores[OURS], scores[PLAIN]),
                "documents",
                at_most=0,
            ),
        ],
        "seconds": {name: round(value, 4) for name, value in medians(seconds).items()},
    }


def data_file(name: str, folder: Path) -> tuple[HarnessBenchmark, Path]:
    """Return a benchmark of the harness and the file of the split that it scores.

    Raises:
        LpstepsError: It has another protocol or shots, or its data is not there.
    """
    benchmark = load_benchmark(name)
    if not isinstance(benchmark, HarnessBenchmark) or benchmark.shots:
        raise LpstepsError(f"--benchmarks: {name}: must be scored through lm-eval without shots")
    manifest = folder / benchmark.dataset / "manifest.json"
    path, _ = split_file(manifest, verify_file_manifest(manifest), benchmark.split)
    return benchmark, path


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data", type=Path, default=Path("resources/data"), help="folder of the datasets"
    )
    parser.add_argument("--benchmarks", nargs="+", default=BENCHMARKS, help="what to score")
    parser.add_argument("--limit", type=int, default=4, help="documents of each")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="most tokens in a pass")
    parser.add_argument("--add-bos", action="store_true", help="start contexts with that token")


def main() -> int:
    """Measure and write ``results/question_answering.json``."""
    return run_benchmark("question_answering", add_arguments, measured)


if __name__ == "__main__":
    raise SystemExit(main())
