"""Accuracy on multiple-choice benchmarks: lm-evaluation-harness's tasks on local data.

Prompts, choices and metrics are the harness's own task definitions. Two things differ from a call
of its command line: the documents come from a Parquet file instead of the Hub, and requests are
scored by :func:`lpsteps.evaluation.scoring.score_requests`, which gives the same numbers faster.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by the libraries below when they are imported: nothing here needs the network, and the scorer
# shows its own progress.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import datasets
import lm_eval
from lm_eval import utils as harness_utils
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lpsteps.artifacts import read_parquet, sha256_bytes
from lpsteps.errors import LpstepsError, nearest
from lpsteps.evaluation.scoring import Request, RequestError, score_requests
from lpsteps.machine_faults import raise_machine_fault

if TYPE_CHECKING:
    import pyarrow as pa
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lpsteps.evaluation.harness_settings import HarnessSettings

# They warn of a loaded model, local data and the like, all of it intended here.
logging.getLogger("lm_eval").setLevel(logging.ERROR)
datasets.disable_progress_bars()
# The harness compiles a template anew for every text: with five shots, eight times per question.
harness_utils.env.from_string = lru_cache(maxsize=256)(harness_utils.env.from_string)

_TASKS = Path(lm_eval.__file__).parent / "tasks"
_TEMPLATE_KEYS = (
    "description",
    "doc_to_choice",
    "doc_to_target",
    "doc_to_text",
    "fewshot_delimiter",
    "process_docs",
    "target_delimiter",
)


@dataclass(frozen=True)
class HarnessScore:
    """The outcome of one benchmark.

    Attributes:
        value: Mean of the metric over the documents of all tasks, in percent.
        stderr: Standard error of that mean, in percentage points; None for a single one.
        ids: Row of each scored document in its split.
        outcomes: The metric per document, in the order of `ids`: 0 or 1, or of a task that counts
            shares (truthfulqa_mc2) a number between.
        settings: What the number depends on besides model and data.
    """

    value: float
    stderr: float | None
    ids: list[int]
    outcomes: list[int | float]
    settings: dict[str, Any]


class DocumentError(LpstepsError):
    """A document of which an answer cannot be scored.

    Attributes:
        task: The harness's task.
        document: Number of the document in it.
    """

    def __init__(self, task: str, document: int, problem: str) -> None:
        """Say what is wrong with a document."""
        super().__init__(problem)
        self.task, self.document = task, document


class PackedModel(HFLM):  # type: ignore[misc]
    """A loaded model for the harness, scoring with shared prefixes."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        add_bos: bool,
        batch_tokens: int,
    ) -> None:
        """Wrap a model.

        Args:
            model: Decoder-only model, in evaluation mode.
            tokenizer: Its tokenizer.
            add_bos: Whether every context starts with the beginning-of-sequence token.
            batch_tokens: Most tokens in one forward pass.

        Raises:
            LpstepsError: ``add_bos`` is set, but the harness leaves that token to the tokenizer,
                and this one puts none in front.
        """
        if add_bos and tokenizer("x")["input_ids"][:1] != [tokenizer.bos_token_id]:
            raise LpstepsError(
                "add_bos: true: the tokenizer of this model puts no BOS token in front of a "
                "question; set it to false for the suite"
            )
        super().__init__(
            pretrained=model, backend="causal", tokenizer=tokenizer, add_bos_token=add_bos
        )
        self._batch_tokens = batch_tokens

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Score (context, continuation) texts; quiet, since the scorer shows its own progress."""
        try:
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        except RequestError as error:
            asked = requests[error.index]
            raise DocumentError(asked.task_name, asked.doc_id, str(error)) from error
        return answers

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        answers = score_requests(
            self.model,
            [Request(tuple(context), tuple(target)) for _, context, target in requests],
            max_length=self.max_length,
            batch_tokens=self._batch_tokens,
        )
        return [(answer.log_likelihood, answer.is_greedy) for answer in answers]


@dataclass(frozen=True)
class LocalTask:
    """A task of the harness on rows of a local file.

    Attributes:
        task: The harness's task; its document i is row `rows[i]`.
        rows: Rows of the file that are its documents.
    """

    task: ConfigurableTask
    rows: list[int]


def rows_by_task(benchmark: HarnessSettings, table: pa.Table, source: Path) -> dict[str, list[int]]:
    """Divide the rows of a table among the tasks of a benchmark.

    Args:
        benchmark: Names the tasks and the column that tells their rows apart.
        table: The rows.
        source: Where the table comes from, for the message.

    Returns:
        The rows of each task in the order of the table; rows of no task are left out.

    Raises:
        LpstepsError: There is no such column, or a task has no rows.
    """
    if table.num_rows == 0:
        tasks = benchmark.task or ", ".join(benchmark.tasks)
        raise LpstepsError(f"{source}: cannot be read as the data of {tasks}: it has no rows")
    column = benchmark.task_column
    if column is None:
        return {str(benchmark.task): list(range(table.num_rows))}
    if column not in table.column_names:
        raise LpstepsError(
            f"{source}: no column {column!r}, which tells the tasks apart; "
            f"{nearest(column, table.column_names)}"
        )
    rows_with: dict[str, list[int]] = {}
    for row, value in enumerate(table[column].to_pylist()):
        rows_with.setdefault(value, []).append(row)
    for task, value in benchmark.tasks.items():
        if value not in rows_with:
            raise LpstepsError(
                f"{source}: {column}: no row has {value!r}, which {task} needs; "
                f"{nearest(value, rows_with)}"
            )
    return {task: rows_with[value] for task, value in benchmark.tasks.items()}


def _check_total(
    benchmark: HarnessSettings, rows: Mapping[str, Sequence[int]], source: Path
) -> None:
    """Check that a split has no more rows than the benchmark says that the whole one has.

    It may have fewer: some sources hold only a part of a split.

    Raises:
        LpstepsError: It has more, so that a score would be one of too many documents.
    """
    count = sum(map(len, rows.values()))
    if count > benchmark.total:
        raise LpstepsError(
            f"{source}: {count} rows of {', '.join(rows)}: `total` of the benchmark says that the "
            f"whole split has {benchmark.total}; correct it, or name the split that is meant"
        )


def limited_rows(rows: Mapping[str, Sequence[int]], limit: int | None) -> dict[str, list[int]]:
    """Keep `limit` rows: as many of each task, spread evenly over it.

    So a limited score stands on all tasks alike, whatever their sizes, and on all of a file whose
    rows are ordered, by their sources for instance. A task with fewer rows gives all that it has;
    where the limit does not divide, the first tasks give one more; one that gives none is left out.
    """
    if limit is None:
        return {task: list(own) for task, own in rows.items()}
    turns = chain.from_iterable(zip_longest(*([task] * len(own) for task, own in rows.items())))
    shares = Counter(islice((task for task in turns if task is not None), limit))
    return {
        task: [
            own[(2 * place + 1) * len(own) // (2 * shares[task])] for place in range(shares[task])
        ]
        for task, own in rows.items()
        if shares[task]
    }


def load_tasks(
    benchmark: HarnessSettings,
    data: Path,
    *,
    limit: int | None = None,
    fewshot: Path | None = None,
    seed: int = 0,
) -> dict[str, LocalTask]:
    """Load the harness's own tasks with the documents of local files.

    Args:
        benchmark: Names the tasks and their folder in the harness.
        data: Parquet file of the split to score, with the columns that the tasks' dataset has on
            the Hub.
        limit: Take only so many rows, as :func:`limited_rows` does; None for all.
        fewshot: Parquet file of the split that gives the examples; None for zero-shot.
        seed: Of the tasks that shuffle the choices of a document.

    Raises:
        LpstepsError: The harness has no such task, a file lacks a column that the task needs or
            has more rows than the benchmark's whole split, or there are fewer examples than shots.
    """
    folder = _TASKS / benchmark.task_folder
    # Indexing this folder takes milliseconds, indexing all of the harness's tasks several seconds.
    manager = TaskManager(include_path=folder, include_defaults=False)
    table = read_parquet(data)
    whole = rows_by_task(benchmark, table, data)
    _check_total(benchmark, whole, data)
    rows = limited_rows(whole, limit)
    examples = read_parquet(fewshot) if fewshot is not None else None
    example_rows = rows_by_task(benchmark, examples, fewshot) if fewshot is not None else {}
    tasks: dict[str, LocalTask] = {}
    for name, own in rows.items():
        # The harness prepares a split several times over, so cut it before rather than after.
        splits = {"scored": datasets.Dataset(table.take(own))}
        if examples is not None:
            if len(example_rows[name]) < benchmark.shots:
                raise LpstepsError(
                    f"{fewshot}: {len(example_rows[name])} rows for {name}, which needs "
                    f"{benchmark.shots} as examples"
                )
            splits["fewshot"] = datasets.Dataset(examples.take(example_rows[name]))
        # Some tasks shuffle choices with the generator that the whole process shares.
        random.seed(seed)
        task = _load_task(manager, benchmark, name, splits, data)
        # The harness prepares the documents anew for the prompts and for the scores, and such a
        # task would then score other choices than those it asked about.
        task.test_docs = partial(_as_they_are, task.task_docs)
        tasks[name] = LocalTask(task, own)
    return tasks


def _as_they_are(documents: datasets.Dataset) -> datasets.Dataset:
    return documents


def _load_task(
    manager: TaskManager,
    benchmark: HarnessSettings,
    name: str,
    splits: Mapping[str, datasets.Dataset],
    source: Path,
) -> ConfigurableTask:
    if name not in manager.all_subtasks:
        raise LpstepsError(
            f"{name}: lm-eval {lm_eval.__version__} has no such task in "
            f"tasks/{benchmark.task_folder} (it has {', '.join(manager.all_subtasks) or 'none'})"
        )
    overrides = {
        "task": name,
        "custom_dataset": lambda **_: splits,
        "training_split": None,
        "validation_split": None,
        "test_split": "scored",
        "fewshot_split": "fewshot" if "fewshot" in splits else None,
        "num_fewshot": benchmark.shots,
    }
    try:
        # Only a member of a group keeps its own definition underneath the overrides.
        loaded = manager.load({"group": "local", "task": [overrides]})
    # It tries the templates on the first document, and they raise whatever they run into.
    except Exception as error:
        raise_machine_fault(error)
        raise LpstepsError(
            f"{source}: cannot be read as the data of {name} ({error!r}); it needs rows with the "
            "columns of the dataset on the Hub"
        ) from error
    task: ConfigurableTask = loaded["tasks"][name]
    return task


def _check_documents(local: LocalTask, name: str, source: Path) -> None:
    """Check that the harness can make a question, choices and an answer of every document.

    Raises:
        LpstepsError: It cannot; the message names file and row.
    """
    task = local.task
    for row, document in zip(local.rows, task.test_docs(), strict=True):
        try:
            task.doc_to_text(document)
            task.doc_to_choice(document)
            task.doc_to_target(document)
        # The templates of the tasks raise whatever their expressions run into.
        except Exception as error:
            raise_machine_fault(error)
            raise LpstepsError(
                f"{source}: row {row} cannot be read as the data of {name} ({error}); it needs "
                "the columns of the dataset on the Hub"
            ) from error


def _template(task: ConfigurableTask) -> dict[str, Any]:
    """The rules that turn a document into prompt and choices."""
    config = task.dump_config()
    template = {key: config.get(key) for key in _TEMPLATE_KEYS}
    if config["num_fewshot"]:
        template["fewshot_sampler"] = task.fewshot_cfg.sampler
    return template


def _hash(content: Any) -> str:
    return sha256_bytes(json.dumps(content, sort_keys=True, default=str).encode())


def _task_settings(benchmark: HarnessSettings, tasks: Mapping[str, LocalTask]) -> dict[str, Any]:
    """What a score states of its tasks: one value for all where they agree."""
    versions = {name: str(local.task.VERSION) for name, local in tasks.items()}
    templates = {name: _template(local.task) for name, local in tasks.items()}
    agreed = set(versions.values())
    version = agreed.pop() if len(agreed) == 1 else versions
    if benchmark.task is not None:
        return {
            "task": benchmark.task,
            "task_version": version,
            "template_sha256": _hash(templates[benchmark.task]),
        }
    return {
        "tasks": list(tasks),
        "task_version": version,
        "template_sha256": _hash(templates),
    }


def _limit_order(benchmark: HarnessSettings) -> str:
    """What a limited score states of the rows that it took, see :func:`limited_rows`."""
    if benchmark.task is not None:
        return "rows spread evenly over the split"
    return f"as many rows of each {benchmark.task_column}, spread evenly over it"


def _outcome(value: Any) -> int | float:
    """A metric of one document; right and wrong as whole numbers, as nearly all tasks give them."""
    return int(value) if value in (0, 1) else float(value)


def _prompt_hash(samples: Sequence[dict[str, Any]]) -> str:
    """Hash of every context and continuation that was scored, in order."""
    prompts = [sample["arguments"] for sample in samples]
    return sha256_bytes(json.dumps(prompts, ensure_ascii=False).encode())


def score_benchmark(
    model: PackedModel,
    benchmark: HarnessSettings,
    data: Path,
    *,
    limit: int | None = None,
    fewshot: Path | None = None,
    seed: int = 0,
) -> HarnessScore:
    """Score a model on one benchmark.

    Args:
        model: The wrapped model.
        benchmark: What to score.
        data: Parquet file of the split to score.
        limit: Score only so many rows, as :func:`limited_rows` takes them; None for all.
        fewshot: Parquet file of the examples' split, when the benchmark has shots.
        seed: Chooses the examples, and the order of choices where a task shuffles them.

    Raises:
        LpstepsError: Task, data or metric do not fit together, or an answer cannot be scored.
    """
    tasks = load_tasks(benchmark, data, limit=limit, fewshot=fewshot, seed=seed)
    for name, local in tasks.items():
        local.task.set_fewshot_seed(seed=seed)
        _check_documents(local, name, data)
    asked = {"tasks": {name: local.task for name, local in tasks.items()}}
    try:
        results = evaluate(model, asked, bootstrap_iters=0)
    except DocumentError as error:
        row = tasks[error.task].rows[error.document]
        raise LpstepsError(f"{data}: row {row} of {error.task}: {error}") from error
    sample_of = {
        tasks[name].rows[sample["doc_id"]]: sample
        for name, samples in results["samples"].items()
        for sample in samples
    }
    ids = sorted(sample_of)
    samples = [sample_of[row] for row in ids]
    if benchmark.metric not in samples[0]:
        raise LpstepsError(
            f"metric: {benchmark.metric}: {next(iter(tasks))} reports "
            f"{', '.join(sorted(samples[0]['metrics']))}"
        )
    outcomes = [_outcome(sample[benchmark.metric]) for sample in samples]
    n = len(outcomes)
    # The harness's own formula: standard deviation with n - 1, over the root of n.
    stderr = 100 * statistics.stdev(outcomes) / math.sqrt(n) if n > 1 else None
    return HarnessScore(
        value=100 * math.fsum(outcomes) / n,
        stderr=stderr,
        ids=ids,
        outcomes=outcomes,
        settings={
            "add_bos": model.add_bos_token,
            "harness": lm_eval.__version__,
            "max_length": model.max_length,
            "metric_key": f"{benchmark.metric},none",
            "prompts_sha256": _prompt_hash(samples),
            "shots": benchmark.shots,
        }
        | _task_settings(benchmark, tasks)
        | ({} if limit is None else {"limit_order": _limit_order(benchmark)}),
    )
