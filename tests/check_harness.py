"""Compare our scores with those of others' programs, on real files and the dense model.

Questions are scored by lm-eval's own command line on the same files, and must agree document by
document. Perplexities must equal those of a few lines of plain transformers to 1e-4. See
`make check-harness`.

    python -m tests.check_harness --model smollm2-135m --data-root FOLDER copa wsc273 wikitext2=8
    python -m tests.check_harness --model smollm2-135m --data-root FOLDER hellaswag=0:2500

A number after a benchmark limits its documents or windows; two numbers take those documents of it, end
exclusive, so that a large one can be gone through in parts.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from lpsteps import jobs, paths
from lpsteps.artifacts import read_json, write_json
from lpsteps.config import Config, dataset_origin, load_config
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import HarnessBenchmark, load_benchmark
from lpsteps.steps import evaluate_harness, evaluate_perplexity, fetch_data, tokenize_corpus

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
# Prompts that lm-eval's command line runs together, in float32: nearly twice as fast as one by one.
BATCH = 8


def check_config(limits: Mapping[str, int | None], data_root: Path) -> Config:
    """The default profile, with these benchmarks on local files and nothing else."""
    suites: dict[str, Any] = {}
    for name, limit in limits.items():
        protocol = load_benchmark(name).protocol
        suite = suites.setdefault(protocol, {"protocol": protocol, "benchmarks": {}})
        suite["benchmarks"][name] = limit
    profile = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    changes = {"suites": suites, "data_root": str(data_root), "tables": {}, "window_length": 2048}
    config = load_config(profile | changes, ["check"], ROOT)
    for name in limits:
        for dataset, split in splits_of(config, name):
            if dataset_origin(config, dataset, split) != "local":
                local = config.definitions.datasets[dataset].local
                raise LpstepsError(f"{data_root}: {name}: needs {local.get(split)} there")
    return config


def splits_of(config: Config, name: str) -> list[tuple[str, str]]:
    """The (dataset, split) pairs that a benchmark reads."""
    benchmark = config.benchmarks[name]
    if not isinstance(benchmark, HarnessBenchmark):
        corpus = config.definitions.corpora[benchmark.corpus]
        return [(corpus.dataset, corpus.split)]
    splits = [benchmark.split, benchmark.fewshot_split]
    return [(benchmark.dataset, split) for split in splits if split is not None]


def limit_of(config: Config, name: str) -> int | None:
    """How many documents or windows are asked for; None for all."""
    (limit,) = (s.benchmarks[name] for s in config.profile.suites.values() if name in s.benchmarks)
    return limit


def file_of(config: Config, dataset: str, split: str) -> Path:
    """The user's own file with a split."""
    assert config.profile.data_root is not None
    return Path(config.profile.data_root, config.definitions.datasets[dataset].local[split])


def run(step: Any, spec: Any, **options: Path | list[str]) -> None:
    """Run a step of the workflow."""
    arguments = ["--spec", json.dumps(spec)]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [str(value)]:
            arguments += [f"--{name}", one]
    if step.main(arguments) != 0:
        raise LpstepsError(f"{step.__name__}: failed, see above")


def our_scores(config: Config, model: str, folder: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Score the dense model by the workflow's steps, as its rules call them.

    Args:
        config: The benchmarks.
        model: Entry of `models`.
        folder: The model's folder, with its manifest.
        work: An empty folder.

    Returns:
        The content of each benchmark's score file.
    """
    write_json(work / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    given: dict[str, Path] = {"model": folder / "manifest.json", "compute": work / "compute.json"}
    scores: dict[str, dict[str, Any]] = {}
    for suite, entry in config.profile.suites.items():
        inputs, outputs = [], []
        for name in entry.benchmarks:
            (dataset, _), *_ = splits_of(config, name)
            data = work / "data" / dataset / "manifest.json"
            run(fetch_data, jobs.fetch_data_spec(config, dataset), manifest=data)
            if entry.protocol == "perplexity":
                corpus = config.benchmarks[name].corpus
                spec = jobs.tokenize_corpus_spec(
                    config, model, corpus, config.benchmarks[name].split
                )
                windows = work / f"{name}.parquet"
                run(tokenize_corpus, spec, model=given["model"], data=data, windows=windows)
                inputs.append(f"{name}={windows}")
            else:
                inputs.append(f"{name}={data}")
            outputs.append(f"{name}={work / 'scores' / name}.json")
        step = evaluate_harness if entry.protocol == "harness" else evaluate_perplexity
        spec = jobs.evaluate_spec(config, model, paths.DENSE, suite)
        kind = "data" if entry.protocol == "harness" else "windows"
        run(step, spec, **given, **{kind: inputs, "score": outputs})
        scores |= {name: read_json(work / "scores" / f"{name}.json") for name in entry.benchmarks}
    return scores


def subject_file(source: Path, column: str | None, value: str | None, folder: Path) -> Path:
    """The file itself, or one in `folder` with those of its rows that have a value."""
    if column is None:
        return source
    target = folder / f"{source.stem}_{value}.parquet"
    table = pq.read_table(source, partitioning=None)
    pq.write_table(table.filter(pc.equal(table[column], value)), target)
    return target


def write_tasks(config: Config, names: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Write task files for lm-eval: its own definitions, included, on local Parquet files.

    Returns:
        The tasks of each benchmark, named `local_` and the harness's name.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    written: dict[str, list[str]] = {}
    for name in names:
        benchmark = config.benchmarks[name]
        assert isinstance(benchmark, HarnessBenchmark)
        home = Path(lm_eval.__file__).parent / "tasks" / benchmark.task_folder
        index = TaskManager(include_path=home, include_defaults=False).task_index
        values = benchmark.tasks if benchmark.task is None else {benchmark.task: None}
        for task, value in values.items():
            files = {
                split: str(
                    subject_file(
                        file_of(config, dataset, split), benchmark.task_column, value, folder
                    )
                )
                for dataset, split in splits_of(config, name)
            }
            definition = {
                "include": str(index[task].yaml_path),
                "task": f"local_{task}",
                "dataset_path": "parquet",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files},
                "training_split": None,
                "validation_split": None,
                "test_split": benchmark.split,
                "fewshot_split": benchmark.fewshot_split,
                "num_fewshot": benchmark.shots,
            }
            (folder / f"local_{task}.yaml").write_text(yaml.safe_dump(definition))
            written.setdefault(name, []).append(f"local_{task}")
    return written


def rows_of(config: Config, name: str) -> list[list[int]]:
    """Rows of the benchmark's file that belong to each of its tasks."""
    benchmark = config.benchmarks[name]
    assert isinstance(benchmark, HarnessBenchmark)
    table = pq.read_table(file_of(config, benchmark.dataset, benchmark.split), partitioning=None)
    if benchmark.task is not None:
        return [list(range(table.num_rows))]
    column = table[benchmark.task_column].to_pylist()
    return [[i for i, own in enumerate(column) if own == v] for v in benchmark.tasks.values()]


def harness_outcomes(
    config: Config,
    model: str,
    folder: Path,
    scores: Mapping[str, Mapping[str, Any]],
    work: Path,
    *,
    trusted: bool = False,
) -> tuple[dict[str, dict[int, int]], dict[str, float]]:
    """Run lm-eval's command line on the documents that we scored.

    Args:
        config: The benchmarks, on local files.
        model: Entry of `models`.
        folder: The model's files.
        scores: Content of the score file of each benchmark.
        work: An empty folder.
        trusted: Whether code in the model's folder may run.

    Returns:
        For each benchmark the metric of each document, by its row, and the mean that lm-eval
        reports, in percent.
    """
    (work / "tasks").mkdir()
    tasks = write_tasks(config, list(scores), work / "tasks")
    documents: dict[str, list[int]] = {}
    for name, names in tasks.items():
        scored = set(scores[name]["samples"]["ids"])
        limited = limit_of(config, name) is not None
        for task, rows in zip(names, rows_of(config, name), strict=True):
            documents[task] = [i for i, row in enumerate(rows) if row in scored or not limited]
    arguments = {
        "pretrained": folder,
        "dtype": "float32",
        "add_bos_token": config.definitions.models[model].add_bos,
        **({"trust_remote_code": True} if trusted else {}),
    }
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"),
        *("--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())),
        *("--tasks", ",".join(task for task, own in documents.items() if own)),
        *("--include_path", str(work / "tasks"), "--samples", json.dumps(documents)),
        *("--batch_size", str(BATCH), "--log_samples", "--output_path", str(work / "harness")),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "cache")}
    subprocess.run(command, check=True, env=os.environ | offline)
    (reported,) = (work / "harness").rglob("results_*.json")
    results = json.loads(reported.read_text())["results"]
    outcomes: dict[str, dict[int, int]] = {}
    means: dict[str, float] = {}
    for name, names in tasks.items():
        metric, total = scores[name]["metric"], 0.0
        outcomes[name] = {}
        for task, rows in zip(names, rows_of(config, name), strict=True):
            if not documents[task]:
                continue
            (path,) = (work / "harness").rglob(f"samples_{task}_*.jsonl")
            samples = [json.loads(line) for line in path.read_text().splitlines()]
            outcomes[name] |= {rows[sample["doc_id"]]: int(sample[metric]) for sample in samples}
            total += results[task][f"{metric},none"] * len(samples)
        means[name] = 100 * total / len(outcomes[name])
    return outcomes, means


def differing_rows(score: Mapping[str, Any], outcomes: Mapping[int, int]) -> list[int]:
    """Rows that only one side scored, or that the two scored differently."""
    ours = dict(zip(score["samples"]["ids"], score["samples"]["values"], strict=True))
    return sorted(
        row for row in ours.keys() | outcomes.keys() if ours.get(row) != outcomes.get(row)
    )


def plain_perplexity(
    folder: Path,
    texts: Sequence[str],
    *,
    separator: str,
    length: int,
    count: int | None,
    bos: bool,
    bos_in_windows: bool,
) -> float:
    """Perplexity of consecutive windows of a text by transformers alone."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(separator.join(texts), add_special_tokens=False)["input_ids"]
    if bos_in_windows:
        step = length - 1
        starts = range(0, len(ids) - step + 1, step)
        ids = [i for at in starts for i in (tokenizer.bos_token_id, *ids[at : at + step])]
    elif bos:
        ids = [tokenizer.bos_token_id, *ids]
    windows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)[:count]
    return perplexity_of_windows(folder, windows)


def perplexity_of_windows(folder: Path, windows: Any, *, trusted: bool = False) -> float:
    """Exp of the mean loss of windows, int64 `[windows, length]`, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=trusted
    ).eval()
    with torch.inference_mode():
        losses = []
        for window in windows:
            # In float32, torch's log_softmax over tens of thousands of logits is off by 1e-5.
            logits = model(window[None]).logits[0, :-1].double()
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
    return math.exp(math.fsum(losses) / len(losses))


def read_texts(path: Path, column: str) -> list[str]:
    """The documents of a Parquet file, or the stripped lines of a gzipped text."""
    if path.suffix == ".parquet":
        texts: list[str] = pq.read_table(path, partitioning=None)[column].to_pylist()
        return texts
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [line.strip() for line in stream]


def parsed_limits(words: Sequence[str]) -> tuple[dict[str, int | None], dict[str, slice]]:
    """Read `NAME`, `NAME=LIMIT` and `NAME=START:STOP`; returns limits and parts by name."""
    limits: dict[str, int | None] = {}
    parts: dict[str, slice] = {}
    for word in words:
        found = re.fullmatch(r"(?P<name>\w+)(=(?P<limit>\d+)|=(?P<start>\d+):(?P<stop>\d+))?", word)
        if found is None:
            raise LpstepsError(f"{word}: must be NAME, NAME=LIMIT or NAME=START:STOP")
        name = found["name"]
        limits[name] = int(found["limit"]) if found["limit"] else None
        if found["start"]:
            parts[name] = slice(int(found["start"]), int(found["stop"]))
    return limits, parts


def cut_data(config: Config, parts: Mapping[str, slice], folder: Path) -> Path:
    """Make a folder like the user's, with links to its files and those of some benchmarks cut.

    Args:
        config: Benchmarks of questions, on local files.
        parts: The rows to keep of the split that each of some benchmarks scores.
        folder: An empty folder.
    """
    assert config.profile.data_root is not None
    for path in Path(config.profile.data_root).iterdir():
        (folder / path.name).symlink_to(path.resolve())
    for name, part in parts.items():
        benchmark = config.benchmarks[name]
        if not isinstance(benchmark, HarnessBenchmark):
            raise LpstepsError(f"{name}: only benchmarks of questions are taken in parts")
        split = (benchmark.dataset, benchmark.split)
        for suite in config.profile.suites.values():
            for other in suite.benchmarks:
                if other != name and split in splits_of(config, other):
                    raise LpstepsError(f"{name}: {other} has the same file; check them one by one")
        source = file_of(config, *split)
        table = pq.read_table(source, partitioning=None)
        rows = table.slice(part.start, part.stop - part.start)
        if not rows.num_rows:
            raise LpstepsError(f"{name}: {part.start}:{part.stop}: it has {table.num_rows} rows")
        print(f"{name}: rows {part.start} to {part.start + rows.num_rows} of {table.num_rows}")
        target = folder / source.name
        target.unlink()
        pq.write_table(rows, target)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns 1 when anything differs."""
    parser = ArgumentParser(prog="python -m tests.check_harness")
    parser.add_argument("--model", default="smollm2-135m", help="entry of config/models.yaml")
    parser.add_argument("--folder", type=Path, help="its files; default resources/models/MODEL")
    parser.add_argument("--data-root", type=Path, required=True, help="folder with dataset files")
    parser.add_argument("benchmarks", nargs="+", metavar="BENCHMARK[=LIMIT|=START:STOP]")
    arguments = parser.parse_args(argv)
    folder = (arguments.folder or ROOT / "resources/models" / arguments.model).resolve()
    limits, parts = parsed_limits(arguments.benchmarks)
    config = check_config(limits, arguments.data_root.resolve())
    failures = 0
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as data:
        work = Path(name)
        if parts:
            config = check_config(limits, cut_data(config, parts, Path(data)))
        scores = our_scores(config, arguments.model, folder, work)
        questions = {n: s for n, s in scores.items() if s["protocol"] == "harness"}
        lines = []
        if questions:
            outcomes, means = harness_outcomes(config, arguments.model, folder, questions, work)
            for benchmark, score in questions.items():
                rows = differing_rows(score, outcomes[benchmark])
                same = not rows and math.isclose(score["value"], means[benchmark], rel_tol=1e-12)
                failures += not same
                lines.append(
                    f"{benchmark:22} n={score['n']:<6} {score['metric']:9} ours {score['value']:.6f}"
                    f"  lm-eval {means[benchmark]:.6f}  differing documents: {rows or 'none'}"
                )
        for benchmark, score in scores.items():
            if score["protocol"] != "perplexity":
                continue
            corpus = config.definitions.corpora[config.benchmarks[benchmark].corpus]
            if corpus.sampling != "consecutive":
                raise LpstepsError(f"{benchmark}: only corpora of consecutive windows are compared")
            entry = config.definitions.models[arguments.model]
            plain = plain_perplexity(
                folder,
                read_texts(file_of(config, corpus.dataset, corpus.split), corpus.text),
                separator=corpus.separator,
                length=score["settings"]["window_length"],
                count=limit_of(config, benchmark),
                bos=entry.add_bos,
                bos_in_windows=entry.bos_in_windows,
            )
            failures += abs(score["value"] - plain) > TOLERANCE
            lines.append(
                f"{benchmark:22} n={score['n']:<6} perplexity ours {score['value']:.6f}"
                f"  plain {plain:.6f}  difference {score['value'] - plain:+.1e}"
            )
    print("\n".join(lines))
    return int(failures > 0)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except LpstepsError as error:
        print(f"error: check_harness: {error}", file=sys.stderr)
        raise SystemExit(1) from None
