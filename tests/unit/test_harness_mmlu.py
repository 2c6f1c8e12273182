"""MMLU: many tasks of the harness, five-shot, pooled to four benchmarks."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import lm_eval
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tiny_tokenizer import VOCABULARY, train_tokenizer

from lpsteps.artifacts import write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import load_benchmark
from lpsteps.evaluation.harness import PackedModel, limited_rows, load_tasks, score_benchmark
from lpsteps.evaluation.harness_settings import HarnessSettings

BENCHMARKS = ["mmlu_humanities", "mmlu_other", "mmlu_social_sciences", "mmlu_stem"]

# Questions in the test split, https://github.com/hendrycks/test; the grouping is that of its
# categories.py.
SIZES = {
    "abstract_algebra": 100,
    "anatomy": 135,
    "astronomy": 152,
    "business_ethics": 100,
    "clinical_knowledge": 265,
    "college_biology": 144,
    "college_chemistry": 100,
    "college_computer_science": 100,
    "college_mathematics": 100,
    "college_medicine": 173,
    "college_physics": 102,
    "computer_security": 100,
    "conceptual_physics": 235,
    "econometrics": 114,
    "electrical_engineering": 145,
    "elementary_mathematics": 378,
    "formal_logic": 126,
    "global_facts": 100,
    "high_school_biology": 310,
    "high_school_chemistry": 203,
    "high_school_computer_science": 100,
    "high_school_european_history": 165,
    "high_school_geography": 198,
    "high_school_government_and_politics": 193,
    "high_school_macroeconomics": 390,
    "high_school_mathematics": 270,
    "high_school_microeconomics": 238,
    "high_school_physics": 151,
    "high_school_psychology": 545,
    "high_school_statistics": 216,
    "high_school_us_history": 204,
    "high_school_world_history": 237,
    "human_aging": 223,
    "human_sexuality": 131,
    "international_law": 121,
    "jurisprudence": 108,
    "logical_fallacies": 163,
    "machine_learning": 112,
    "management": 103,
    "marketing": 234,
    "medical_genetics": 100,
    "miscellaneous": 783,
    "moral_disputes": 346,
    "moral_scenarios": 895,
    "nutrition": 306,
    "philosophy": 311,
    "prehistory": 324,
    "professional_accounting": 282,
    "professional_law": 1534,
    "professional_medicine": 272,
    "professional_psychology": 612,
    "public_relations": 110,
    "security_studies": 245,
    "sociology": 201,
    "us_foreign_policy": 100,
    "virology": 166,
    "world_religions": 171,
}

# Test rows, subjects mixed and of unequal number.
SUBJECTS = ["anatomy", "virology", "anatomy", "marketing", "anatomy", "virology", "anatomy"]


def question(number: int, subject: str, kind: str) -> dict[str, Any]:
    return {
        "question": f" {kind} question {number} on {subject}? ",
        "subject": subject,
        "choices": [f"the {number} cat", "a dog", "no answer", "yes"],
        "answer": (7 * number + len(subject)) % 4,
    }


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Test rows and, in another order of subjects, six examples of each."""
    test = [question(i, subject, "test") for i, subject in enumerate(SUBJECTS)]
    dev = [
        question(i, subject, "dev")
        for i in range(6)
        for subject in ("virology", "philosophy", "marketing", "anatomy")
    ]
    for name, rows in {"test": test, "dev": dev}.items():
        write_parquet(tmp_path / f"{name}.parquet", pa.Table.from_pylist(rows))
    return tmp_path / "test.parquet", tmp_path / "dev.parquet"


@pytest.fixture
def benchmark() -> HarnessSettings:
    """The category of the three subjects, with fewer subjects than the real one."""
    tasks = {f"mmlu_{subject}": subject for subject in ("anatomy", "marketing", "virology")}
    content = load_benchmark("mmlu_other").scoring()
    return HarnessSettings.model_validate(content | {"tasks": tasks, "total": len(SUBJECTS)})


@pytest.fixture
def packed(tiny_model: Any) -> PackedModel:
    model = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=600)
    return PackedModel(model, train_tokenizer(), add_bos=False, batch_tokens=256)


def single(benchmark: HarnessSettings, subject: str) -> HarnessSettings:
    """The benchmark of one subject, in the form for a single task."""
    content = benchmark.model_dump() | {"tasks": {}, "task_column": None}
    return HarnessSettings.model_validate(content | {"task": f"mmlu_{subject}"})


def of_subject(path: Path, subject: str) -> Path:
    """A copy of a file with the rows of one subject."""
    rows = [row for row in pa.parquet.read_table(path).to_pylist() if row["subject"] == subject]
    copy = path.with_name(f"{subject}_{path.name}")
    write_parquet(copy, pa.Table.from_pylist(rows))
    return copy


def test_categories_hold_every_subject_once_and_add_up() -> None:
    loaded = {name: load_benchmark(name) for name in BENCHMARKS}
    subjects = [subject for entry in loaded.values() for subject in entry.tasks.values()]
    assert Counter(subjects) == Counter(SIZES.keys())
    totals = {
        name: sum(SIZES[subject] for subject in entry.tasks.values())
        for name, entry in loaded.items()
    }
    assert totals == {name: entry.total for name, entry in loaded.items()}
    assert totals == {
        "mmlu_stem": 3018,
        "mmlu_humanities": 4705,
        "mmlu_social_sciences": 3077,
        "mmlu_other": 3242,
    }
    shared = {name: entry.scoring().keys() - {"tasks", "total"} for name, entry in loaded.items()}
    assert len({str([loaded[n].scoring()[k] for k in sorted(v)]) for n, v in shared.items()}) == 1


def test_every_task_is_the_one_of_its_subject() -> None:
    folder = Path(lm_eval.__file__).parent / "tasks" / load_benchmark("mmlu_stem").task_folder
    for name in BENCHMARKS:
        for task, subject in load_benchmark(name).tasks.items():
            definition = yaml.safe_load((folder / f"{task}.yaml").read_text())
            assert (definition["task"], definition["dataset_name"]) == (task, subject)


@pytest.mark.parametrize("subject", ["anatomy", "virology"])
def test_prompts_are_those_of_the_harness(
    subject: str, benchmark: HarnessSettings, files: tuple[Path, Path]
) -> None:
    """Compare with the subject's own YAML file and a loop over the rows."""
    local = load_tasks(benchmark, files[0], fewshot=files[1])[f"mmlu_{subject}"]
    local.task.set_fewshot_seed(seed=0)
    local.task.build_all_requests()

    folder = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    description = yaml.safe_load((folder / f"mmlu_{subject}.yaml").read_text())["description"]
    template = yaml.safe_load((folder / "_default_template_yaml").read_text())
    assert (template["fewshot_config"]["sampler"], template["doc_to_target"]) == (
        "first_n",
        "answer",
    )

    def asked(row: dict[str, Any]) -> str:
        letters = "".join(f"\n{x}. {text}" for x, text in zip("ABCD", row["choices"], strict=True))
        return f"{row['question'].strip()}{letters}\nAnswer:"

    examples = [question(i, subject, "dev") for i in range(5)]
    shots = "".join(f"{asked(row)} {'ABCD'[row['answer']]}\n\n" for row in examples)
    expected = [
        (description + shots + asked(question(i, subject, "test")), f" {letter}")
        for i, own in enumerate(SUBJECTS)
        if own == subject
        for letter in "ABCD"
    ]
    assert [request.args for request in local.task.instances] == expected


@pytest.mark.parametrize("subject", ["anatomy", "virology"])
def test_prompts_equal_those_of_the_harness_with_its_own_loader(
    subject: str,
    benchmark: HarnessSettings,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Load the task as `lm_eval --tasks` does; only the download gives local rows."""
    import datasets
    from lm_eval.tasks import TaskManager

    splits = {
        split: datasets.Dataset(pa.parquet.read_table(of_subject(path, subject)))
        for split, path in zip(("test", "dev"), files, strict=True)
    }
    asked_for = []

    def load_dataset(path: str, name: str, **_: Any) -> Any:
        asked_for.append((path, name))
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    folder = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    manager = TaskManager(include_path=folder, include_defaults=False)
    own = manager.load([f"mmlu_{subject}"])["tasks"][f"mmlu_{subject}"]
    assert asked_for == [("cais/mmlu", subject)]
    own.set_config(key="num_fewshot", value=5)
    own.set_fewshot_seed(seed=1234)
    own.build_all_requests()

    local = load_tasks(benchmark, files[0], fewshot=files[1])[f"mmlu_{subject}"]
    local.task.set_fewshot_seed(seed=0)
    local.task.build_all_requests()
    assert [r.args for r in local.task.instances] == [r.args for r in own.instances]


def test_the_pooled_score_is_that_of_all_subjects_together(
    benchmark: HarnessSettings, files: tuple[Path, Path], packed: PackedModel
) -> None:
    score = score_benchmark(packed, benchmark, files[0], fewshot=files[1])
    plain = HFLM(pretrained=packed.model, tokenizer=packed.tokenizer, add_bos_token=False)
    outcome_of: dict[int, int] = {}
    for subject in benchmark.tasks.values():
        task = f"mmlu_{subject}"
        (local,) = load_tasks(
            single(benchmark, subject),
            of_subject(files[0], subject),
            fewshot=of_subject(files[1], subject),
        ).values()
        samples = evaluate(plain, {"tasks": {task: local.task}}, bootstrap_iters=0)["samples"]
        rows = [row for row, own in enumerate(SUBJECTS) if own == subject]
        outcome_of |= {rows[s["doc_id"]]: int(s["acc"]) for s in samples[task]}
    n = len(SUBJECTS)
    assert dict(zip(score.ids, score.outcomes, strict=True)) == outcome_of
    assert score.ids == list(range(n))
    share = sum(outcome_of.values()) / n
    assert 0 < share < 1
    assert score.value == pytest.approx(100 * share)
    assert score.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / (n - 1)))


def test_settings_hold_one_value_where_tasks_agree(
    benchmark: HarnessSettings, files: tuple[Path, Path], packed: PackedModel
) -> None:
    score = score_benchmark(packed, benchmark, files[0], fewshot=files[1])
    assert score.settings["tasks"] == ["mmlu_anatomy", "mmlu_marketing", "mmlu_virology"]
    assert score.settings["task_version"] == "1.0"
    assert "limit_order" not in score.settings
    assert score.settings["shots"] == 5
    fewer = benchmark.model_copy(update={"tasks": {"mmlu_anatomy": "anatomy"}})
    other = score_benchmark(packed, fewer, files[0], fewshot=files[1])
    assert other.settings["template_sha256"] != score.settings["template_sha256"]
    alone = score_benchmark(
        packed, single(benchmark, "anatomy"), files[0], fewshot=of_subject(files[1], "anatomy")
    )
    assert (alone.settings["task"], alone.settings["task_version"]) == ("mmlu_anatomy", "1.0")
    assert "tasks" not in alone.settings


def test_a_limit_goes_round_the_subjects(
    benchmark: HarnessSettings, files: tuple[Path, Path], packed: PackedModel
) -> None:
    full = score_benchmark(packed, benchmark, files[0], fewshot=files[1])
    assert full.ids == list(range(7)) and "limit_order" not in full.settings
    outcome_of = dict(zip(full.ids, full.outcomes, strict=True))
    for limit, expected in (
        (1, [4]),
        (3, [3, 4, 5]),
        (4, [2, 3, 5, 6]),
        (6, [0, 1, 3, 4, 5, 6]),
        (99, full.ids),
    ):
        score = score_benchmark(packed, benchmark, files[0], limit=limit, fewshot=files[1])
        assert score.ids == expected
        assert score.outcomes == [outcome_of[row] for row in expected]
        said = "as many rows of each subject, spread evenly over it"
        assert score.settings["limit_order"] == said


def test_limited_counts_differ_by_one_at_most_while_rows_last() -> None:
    rows = {"a": list(range(50)), "b": [60, 61], "c": list(range(70, 99)), "d": [200]}
    for limit in range(1, 82):
        kept = limited_rows(rows, limit)
        assert sum(map(len, kept.values())) == limit
        for task, own in kept.items():
            places = [rows[task].index(row) for row in own]
            gaps = [after - before for before, after in pairwise(places)]
            assert min(gaps, default=1) > 0
            assert max(gaps, default=1) - min(gaps, default=1) <= 1
            # As far from the last row as from the first, to within one.
            assert abs(places[0] - (len(rows[task]) - 1 - places[-1])) <= 1
        unfinished = [len(kept.get(t, [])) for t in rows if len(kept.get(t, [])) < len(rows[t])]
        assert max(unfinished, default=0) - min(unfinished, default=0) <= 1
        assert max(map(len, kept.values())) - min(unfinished, default=99) <= 1


def test_one_pass_scores_all_four_answers(
    benchmark: HarnessSettings, files: tuple[Path, Path], packed: PackedModel
) -> None:
    """Answers differ in their last token, which is no input; questions share their examples."""
    seen: list[int] = []
    packed.model.model.register_forward_pre_hook(
        lambda module, arguments, options: seen.append(options["input_ids"].numel()),
        with_kwargs=True,
    )
    score_benchmark(packed, benchmark, files[0], fewshot=files[1])
    inputs: dict[str, list[tuple[int, ...]]] = {}
    for name, local in load_tasks(benchmark, files[0], fewshot=files[1]).items():
        local.task.build_all_requests()
        pairs = [packed._encode_pair(*request.args) for request in local.task.instances]
        inputs[name] = [tuple(context + answer)[:-1] for context, answer in pairs]
    assert [len(set(own)) for own in inputs.values()] == [4, 1, 2]
    assert sum(seen) < sum(len(tokens) for own in inputs.values() for tokens in set(own)) / 2


def test_a_context_above_the_models_length_loses_its_beginning(
    benchmark: HarnessSettings, files: tuple[Path, Path], tiny_model: Any
) -> None:
    model = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=100)
    tokenizer = train_tokenizer()
    (local, *_) = load_tasks(benchmark, files[0], fewshot=files[1]).values()
    local.task.set_fewshot_seed(seed=0)
    local.task.build_all_requests()
    packed = PackedModel(model, tokenizer, add_bos=False, batch_tokens=64)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=False)
    answers = packed.loglikelihood(local.task.instances)
    expected = plain.loglikelihood(local.task.instances, disable_tqdm=True)
    assert len(packed.tok_encode(local.task.instances[0].args[0])) > 200
    assert [log for log, _ in answers] == pytest.approx([log for log, _ in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_column": "topic"}, r"test\.parquet: no column 'topic', .*allowed: answer"),
        (
            {"tasks": {"mmlu_anatomy": "anatomi"}},
            r"test\.parquet: subject: no row has 'anatomi', which mmlu_anatomy needs; did you mean",
        ),
        ({"shots": 7}, r"dev\.parquet: 6 rows for mmlu_anatomy, which needs 7 as examples"),
        ({"tasks": {"mmlu_anatomi": "anatomy"}}, r"^mmlu_anatomi: lm-eval .*no such task"),
    ],
)
def test_mistakes_are_named(
    changes: dict[str, Any], message: str, benchmark: HarnessSettings, files: tuple[Path, Path]
) -> None:
    with pytest.raises(LpstepsError, match=message):
        load_tasks(benchmark.model_copy(update=changes), files[0], fewshot=files[1])
