"""Compare an export of a real model with the report: `make check-export`.

In a copy of the checkout, which shares its data and models, the variant is computed in float32 and
exported, as a user does it. Its questions are then scored by lm-eval's own command line, and must
agree document by document; its perplexities by a few lines of plain transformers on the same windows,
and must agree in every printed digit.

    python -m tests.check_export --model smollm2-135m llm-streamline/n5/linearpatch
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from lpsteps.artifacts import read_json
from lpsteps.config import Config, load_config, read_config
from lpsteps.data.window_file import first_windows
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import PerplexityBenchmark
from tests.check_harness import (
    ROOT,
    differing_rows,
    harness_outcomes,
    perplexity_of_windows,
    splits_of,
)

DEFAULT = Path("config/config.yaml")


def copied_checkout(folder: Path) -> Path:
    """Copy the checkout without results, with links to what it has fetched, and return the copy."""
    left_out = (".git", ".venv", ".snakemake", "results", "logs", "resources", "tables.json")
    copy = shutil.copytree(ROOT, folder / "project", ignore=shutil.ignore_patterns(*left_out))
    (ROOT / "resources").mkdir(exist_ok=True)
    (copy / "resources").symlink_to(ROOT / "resources")
    return copy


def run(*command: str) -> None:
    """Run a program.

    Raises:
        LpstepsError: It failed; what it says of that stands on standard error by then.
    """
    if subprocess.run(command, check=False).returncode != 0:
        raise LpstepsError(f"{' '.join(command[:4])}...: failed, see above")


def local_copy(config: Config, names: Sequence[str], folder: Path) -> Config:
    """Return the configuration with the datasets that were fetched as the user's own files."""
    for name in names:
        for dataset, split in splits_of(config, name):
            link = folder / config.definitions.datasets[dataset].local[split]
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(Path("resources/data", dataset, f"{split}.parquet").resolve())
    profile = yaml.safe_load(DEFAULT.read_text())
    return load_config(profile | {"data_root": str(folder)}, ["check"], Path())


def check(model: str, variant: str, cores: str, work: Path) -> list[str]:
    """Export a variant and score it anew.

    Returns:
        A line for each benchmark that differs.
    """
    profile = work / "float32.yaml"
    profile.write_text(yaml.safe_dump(yaml.safe_load(DEFAULT.read_text()) | {"dtype": "float32"}))
    away = work / "away"
    run(
        *(sys.executable, "-m", "lpsteps.cli", "export", "--model", model, "--variant", variant),
        *("--to", str(away), "--configfile", str(profile), "--cores", cores),
    )
    config = read_config(profile)
    scores = {
        Path(entry["path"]).stem: read_json(Path(entry["path"]))
        for entry in read_json(away / "export.json")["scores"]
    }
    questions = {name: score for name, score in scores.items() if score["protocol"] == "harness"}
    trusted = "auto_map" in read_json(away / "config.json")
    differing = []
    if questions:
        local = local_copy(config, list(questions), work / "data")
        outcomes, means = harness_outcomes(local, model, away, questions, work, trusted=trusted)
        for name, score in questions.items():
            rows = differing_rows(score, outcomes[name])
            line = (
                f"{variant}: {name}: n={score['n']} report {score['value']:.6f} "
                f"lm-eval {means[name]:.6f} differing documents: {rows or 'none'}"
            )
            print(line)
            if rows or not math.isclose(score["value"], means[name], rel_tol=1e-12):
                differing.append(line)
    for name in sorted(scores.keys() - questions.keys()):
        benchmark, score = config.benchmarks[name], scores[name]
        assert isinstance(benchmark, PerplexityBenchmark)
        path = Path(f"results/{model}/windows/{benchmark.corpus}/{benchmark.split}.parquet")
        windows = torch.from_numpy(first_windows(path, score["n"]))
        plain = perplexity_of_windows(away, windows, trusted=trusted)
        line = f"{variant}: {name}: n={score['n']} report {score['value']:.6f} plain {plain:.6f}"
        print(line)
        if f"{score['value']:.2f}" != f"{plain:.2f}":
            differing.append(line)
    return differing


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns 1 when anything differs."""
    parser = ArgumentParser(prog="python -m tests.check_export")
    parser.add_argument("--model", default="smollm2-135m", help="entry of config/models.yaml")
    parser.add_argument("--cores", default="all", help="as Snakemake understands it")
    parser.add_argument("variants", nargs="+", metavar="VARIANT")
    arguments = parser.parse_args(argv)
    differing = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(copied_checkout(Path(folder)))
        for variant in arguments.variants:
            work = Path(folder, variant.replace("/", "-"))
            work.mkdir()
            differing += check(arguments.model, variant, arguments.cores, work)
    print(f"{len(differing)} benchmarks differ", *differing, sep="\n")
    return int(bool(differing))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except LpstepsError as error:
        print(f"error: check_export: {error}", file=sys.stderr)
        raise SystemExit(1) from None
