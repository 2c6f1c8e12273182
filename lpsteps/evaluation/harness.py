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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by the libraries below when they are imported: nothing here needs the network, and the scorer
# shows its own progress.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import datasets
import lm_eval
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lpsteps.artifacts import read_parquet, sha256_bytes
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.scoring import Request, score_requests

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lpsteps.evaluation.harness_settings import HarnessSettings

# They warn of a loaded model, local data and the like, all of it intended here.
logging.getLogger("lm_eval").setLevel(logging.ERROR)
datasets.disable_progress_bars()

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
        value: Mean of the metric over the documents, in percent.
        stderr: Standard error of that mean, in percentage points; None for a single one.
        ids: Row of each scored document in its split.
        outcomes: 0 or 1 per document: the metric, in the order of `ids`.
        settings: What the number depends on besides model and data.
    """

    value: float
    stderr: float | None
    ids: list[int]
    outcomes: list[int]
    settings: dict[str, Any]


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
        """
        super().__init__(
            pretrained=model, backend="causal", tokenizer=tokenizer, add_bos_token=add_bos
        )
        self._batch_tokens = batch_tokens

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Score (context, continuation) texts; quiet, since the scorer shows its own progress."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
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


def load_task(
    benchmark: HarnessSettings, data: Path, *, limit: int | None = None, fewshot: Path | None = None
) -> ConfigurableTask:
    """Load the harness's own task with the documents of local files.

    Args:
        benchmark: Names the task and its folder in the harness.
        data: Parquet file of the split to score, with the columns that the task's dataset has on
            the Hub.
        limit: Take only the first `limit` rows; None for all.
        fewshot: Parquet file of the split that gives the examples; None for zero-shot.

    Raises:
        LpstepsError: The harness has no such task, or the file lacks a column that the task needs.
    """
    folder = _TASKS / benchmark.task_folder
    # Indexing this folder takes milliseconds, indexing all of the harness's tasks several seconds.
    manager = TaskManager(include_path=folder, include_defaults=False)
    if benchmark.task not in manager.all_subtasks:
        raise LpstepsError(
            f"{benchmark.task}: lm-eval {lm_eval.__version__} has no such task in "
            f"tasks/{benchmark.task_folder} (it has {', '.join(manager.all_subtasks) or 'none'})"
        )
    # The harness prepares a split several times over, so cut it before rather than after.
    splits = {"scored": datasets.Dataset(read_parquet(data).slice(0, limit))}
    if fewshot is not None:
        splits["fewshot"] = datasets.Dataset(read_parquet(fewshot))
    overrides = {
        "task": benchmark.task,
        "custom_dataset": lambda **_: splits,
        "training_split": None,
        "validation_split": None,
        "test_split": "scored",
        "fewshot_split": "fewshot" if fewshot is not None else None,
        "num_fewshot": benchmark.shots,
    }
    try:
        # Only a member of a group keeps its own definition underneath the overrides.
        loaded = manager.load({"group": "local", "task": [overrides]})
    except (KeyError, IndexError, AttributeError) as error:
        raise LpstepsError(
            f"{data}: cannot be read as the data of {benchmark.task} ({error!r}); it needs rows "
            "with the columns of the dataset on the Hub"
        ) from error
    task: ConfigurableTask = loaded["tasks"][benchmark.task]
    return task


def _template_hash(task: ConfigurableTask) -> str:
    """Hash of the rules that turn a document into prompt and choices."""
    config = task.dump_config()
    template = {key: config.get(key) for key in _TEMPLATE_KEYS}
    return sha256_bytes(json.dumps(template, sort_keys=True, default=str).encode())


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
        limit: Score only the first `limit` rows of the split; None for all.
        fewshot: Parquet file of the examples' split, when the benchmark has shots.
        seed: Chooses the examples.

    Raises:
        LpstepsError: Task, data or metric do not fit together.
    """
    task = load_task(benchmark, data, limit=limit, fewshot=fewshot)
    task.set_fewshot_seed(seed=seed)
    results = evaluate(model, {"tasks": {benchmark.task: task}}, bootstrap_iters=0)
    samples = sorted(results["samples"][benchmark.task], key=lambda sample: sample["doc_id"])
    if benchmark.metric not in samples[0]:
        raise LpstepsError(
            f"metric: {benchmark.metric}: {benchmark.task} reports "
            f"{', '.join(sorted(samples[0]['metrics']))}"
        )
    outcomes = [int(sample[benchmark.metric]) for sample in samples]
    n = len(outcomes)
    share = sum(outcomes) / n
    # The harness's own formula: standard deviation with n - 1, over the root of n.
    stderr = 100 * math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    return HarnessScore(
        value=100 * share,
        stderr=stderr,
        ids=[sample["doc_id"] for sample in samples],
        outcomes=outcomes,
        settings={
            "add_bos": model.add_bos_token,
            "harness": lm_eval.__version__,
            "max_length": model.max_length,
            "metric_key": f"{benchmark.metric},none",
            "prompts_sha256": _prompt_hash(samples),
            "shots": benchmark.shots,
            "task": benchmark.task,
            "task_version": str(task.VERSION),
            "template_sha256": _template_hash(task),
        },
    )
