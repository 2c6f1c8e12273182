"""The harness's task definitions on local files, with made-up documents in the Hub's columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tiny_tokenizer import VOCABULARY, train_tokenizer

from lpsteps.artifacts import write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.evaluation import harness
from lpsteps.evaluation.benchmark import load_benchmark
from lpsteps.evaluation.harness import PackedModel, load_tasks, score_benchmark
from lpsteps.evaluation.harness_settings import HarnessSettings

ARC = [
    {
        "id": f"q{i}",
        "question": f"What is {i} made of?",
        "choices": {"text": ["a stone", "the red leaf", "old water", "air"], "label": list("ABCD")},
        "answerKey": "ABCD"[i % 4],
    }
    for i in range(6)
]
DOCUMENTS: dict[str, list[dict[str, Any]]] = {
    "arc_challenge": ARC,
    "arc_easy": ARC,
    "boolq": [
        {"question": f"is {i} a number", "passage": "Numbers -- All are.", "idx": i, "label": i % 2}
        for i in range(6)
    ],
    "copa": [
        {
            "premise": f"The man number {i} ran.",
            "choice1": "He was late.",
            "choice2": "He slept.",
            "question": ["cause", "effect"][i % 2],
            "idx": i,
            "label": i // 3,
        }
        for i in range(6)
    ],
    "hellaswag": [
        {
            "ind": i,
            "activity_label": "Roof repair",
            "ctx_a": f"Person {i} sits on a roof.",
            "ctx_b": "he",
            "ctx": f"Person {i} sits on a roof. he",
            "endings": ["starts [title] to work.", "is away.", "sings a long song.", "eats."],
            "label": str(i % 4),
        }
        for i in range(6)
    ],
    "piqa": [
        {"goal": f"open box {i}", "sol1": "use a key", "sol2": "use a fish, twice", "label": i % 2}
        for i in range(6)
    ],
    "race": [
        {
            "article": f"Tom has {i} dogs.",
            "problems": str(
                [
                    {"question": "Tom has  _  .", "answer": "A", "options": ["a", "b", "c", "d"]},
                    {
                        "question": "What runs?",
                        "answer": "ABCD"[i % 4],
                        "options": ["a dog", "the moon", "rain", "an old car"],
                    },
                ]
            ),
        }
        for i in range(6)
    ],
    "winogrande": [
        {
            "sentence": f"Ann gave Bea {i} coins because _ was rich.",
            "option1": "Ann",
            "option2": "Bea",
            "answer": str(1 + i % 2),
        }
        for i in range(6)
    ],
    "wsc273": [
        {
            "text": "The trophy left the suitcase since it was large.",
            "pronoun": "it",
            "pronoun_loc": 35,
            "quote": "it was large",
            "quote_loc": 35,
            "options": ["The trophy", "The suitcase"],
            "label": i % 2,
            "source": "made up",
        }
        for i in range(6)
    ],
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer()


@pytest.fixture
def model(tiny_model: Any) -> Any:
    return tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=256)


def settings(name: str, **changes: Any) -> HarnessSettings:
    return HarnessSettings.model_validate(load_benchmark(name).scoring() | changes)


def harness_tasks(*arguments: Any, **options: Any) -> list[Any]:
    return [local.task for local in load_tasks(*arguments, **options).values()]


def stored(folder: Path, name: str) -> Path:
    path = folder / f"{name}.parquet"
    write_parquet(path, pa.Table.from_pylist(DOCUMENTS[name]))
    return path


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
@pytest.mark.parametrize("add_bos", [False, True])
def test_scores_equal_those_of_the_plain_harness(
    name: str, add_bos: bool, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    benchmark, data = settings(name), stored(tmp_path, name)
    packed = PackedModel(model, tokenizer, add_bos=add_bos, batch_tokens=128)
    score = score_benchmark(packed, benchmark, data)

    plain = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=add_bos)
    (task,) = harness_tasks(benchmark, data)
    results = evaluate(plain, {"tasks": {benchmark.task: task}}, bootstrap_iters=10)
    samples = results["samples"][benchmark.task]
    assert score.ids == list(range(6))
    assert score.outcomes == [sample[benchmark.metric] for sample in samples]
    metrics = results["results"][benchmark.task]
    assert score.settings["metric_key"] in metrics
    assert score.value == pytest.approx(100 * metrics[f"{benchmark.metric},none"])
    assert score.stderr == pytest.approx(100 * metrics[f"{benchmark.metric}_stderr,none"])

    logs, expected = (
        [log for log, _ in harness.loglikelihood(task.instances, disable_tqdm=True)]
        for harness in (packed, plain)
    )
    np.testing.assert_allclose(logs, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "arc_easy",
            [("Question: What is 0 made of?\nAnswer:", " a stone")],
        ),
        ("boolq", [("Numbers -- All are.\nQuestion: is 0 a number?\nAnswer:", " no")]),
        (
            "hellaswag",
            [("Roof repair: Person 0 sits on a roof. He", " starts. to work.")],
        ),
        ("piqa", [("Question: open box 0\nAnswer:", " use a key")]),
        # Two spaces: the harness puts its delimiter in front of choices that start with a space.
        ("copa", [("The man number 0 ran because", "  he was late.")]),
        (
            "winogrande",
            [
                ("Ann gave Bea 0 coins because Ann", " was rich."),
                ("Ann gave Bea 0 coins because Bea", " was rich."),
            ],
        ),
        (
            "wsc273",
            [
                ("The trophy left the suitcase since the trophy", "  was large."),
                ("The trophy left the suitcase since the suitcase", "  was large."),
            ],
        ),
        ("race", [("Article: Tom has 0 dogs.\n\nTom has a\nWhat runs?", " a dog")]),
    ],
)
def test_prompts_are_those_of_the_harness(
    name: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    (task,) = harness_tasks(settings(name), stored(tmp_path, name))
    task.build_all_requests()
    assert [request.args for request in task.instances][: len(expected)] == expected


def test_a_bos_that_the_tokenizer_does_not_put_is_not_claimed(model: Any) -> None:
    """The harness only lets the tokenizer do as it likes: the score would say what is not so."""
    from tokenizers import processors

    tokenizer = train_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    assert tokenizer("x")["input_ids"][0] != tokenizer.bos_token_id
    with pytest.raises(LpstepsError, match="puts no BOS token in front of a question"):
        PackedModel(model, tokenizer, add_bos=True, batch_tokens=128)
    PackedModel(model, tokenizer, add_bos=False, batch_tokens=128)


def test_the_limit_spreads_over_the_documents(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = stored(tmp_path, "hellaswag")
    packed = PackedModel(model, tokenizer, add_bos=False, batch_tokens=128)
    full = score_benchmark(packed, settings("hellaswag"), data)
    cut = score_benchmark(packed, settings("hellaswag"), data, limit=4)
    count = len(full.ids)
    rows = [count // 8, 3 * count // 8, 5 * count // 8, 7 * count // 8]
    assert (cut.ids, cut.outcomes) == (rows, [full.outcomes[row] for row in rows])
    assert cut.settings["prompts_sha256"] != full.settings["prompts_sha256"]
    assert cut.settings["template_sha256"] == full.settings["template_sha256"]
    single = score_benchmark(packed, settings("hellaswag"), data, limit=1)
    assert single.stderr is None


def test_examples_come_from_their_own_split(tmp_path: Path) -> None:
    benchmark = settings("piqa", shots=2, fewshot_split="train")
    examples = tmp_path / "train.parquet"
    rows = [{"goal": "G", "sol1": "first", "sol2": "second", "label": 1}] * 3
    write_parquet(examples, pa.Table.from_pylist(rows))
    (task,) = harness_tasks(benchmark, stored(tmp_path, "piqa"), fewshot=examples)
    task.set_fewshot_seed(seed=0)
    task.build_all_requests()
    example = "Question: G\nAnswer: second\n\n"
    assert task.instances[0].args[0] == 2 * example + "Question: open box 0\nAnswer:"


def test_choices_that_a_task_shuffles_are_scored_as_they_were_asked(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    rows = [{"Question": f"Q{i}?", "Correct Answer": "right", **wrong} for i in range(40)]
    data = tmp_path / "gpqa.parquet"
    write_parquet(data, pa.Table.from_pylist(rows))
    benchmark = settings(
        "arc_easy", task="gpqa_main_zeroshot", task_folder="gpqa/zeroshot", metric="acc", total=40
    )
    packed = PackedModel(model, tokenizer, add_bos=False, batch_tokens=128)

    def prefer_the_right_one(requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        asked = [request.args for request in requests]
        return [(float(f"{choice.strip()} right" in prompt), False) for prompt, choice in asked]

    monkeypatch.setattr(packed, "loglikelihood", prefer_the_right_one)
    score = score_benchmark(packed, benchmark, data)
    assert score.value == 100.0
    again = score_benchmark(packed, benchmark, data)
    other = score_benchmark(packed, benchmark, data, seed=1)
    prompts = [one.settings["prompts_sha256"] for one in (score, again, other)]
    assert prompts[0] == prompts[1] != prompts[2]


def test_a_metric_that_is_a_share_is_not_cut_off(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    targets = {"choices": ["a stone", "old water", "air"], "labels": [1, 0, 1]}
    rows = [
        {"question": f"Is {i}?", "mc1_targets": targets, "mc2_targets": targets} for i in range(5)
    ]
    data = tmp_path / "truthfulqa.parquet"
    write_parquet(data, pa.Table.from_pylist(rows))
    benchmark = settings(
        "arc_easy", task="truthfulqa_mc2", task_folder="truthfulqa", metric="acc", total=5
    )
    packed = PackedModel(model, tokenizer, add_bos=False, batch_tokens=512)
    score = score_benchmark(packed, benchmark, data)
    (task,) = harness_tasks(benchmark, data)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=False)
    results = evaluate(plain, {"tasks": {"truthfulqa_mc2": task}}, bootstrap_iters=10)
    metrics = results["results"]["truthfulqa_mc2"]
    assert all(0 < outcome < 1 for outcome in score.outcomes)
    assert score.value == pytest.approx(100 * metrics["acc,none"], abs=1e-3)
    assert score.stderr == pytest.approx(100 * metrics["acc_stderr,none"], abs=1e-3)


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    data = stored(tmp_path, "piqa")
    with pytest.raises(LpstepsError, match=r"^pika: .*it has piqa"):
        load_tasks(settings("piqa", task="pika"), data)


def test_a_metric_that_the_task_has_not_is_named(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    packed = PackedModel(model, tokenizer, add_bos=False, batch_tokens=128)
    with pytest.raises(LpstepsError, match=r"^metric: acc_norm: copa reports acc$"):
        score_benchmark(packed, settings("copa", metric="acc_norm"), stored(tmp_path, "copa"))


@pytest.mark.parametrize("columns", [["goal"], []])
def test_data_of_another_kind_is_named(tmp_path: Path, columns: list[str]) -> None:
    data = tmp_path / "data.parquet"
    write_parquet(data, pa.table({name: ["x"] for name in columns}))
    with pytest.raises(LpstepsError, match=r"data\.parquet: cannot be read as the data of winogr"):
        load_tasks(settings("winogrande"), data)


@pytest.mark.parametrize("place", ["load", "doc_to_text"])
def test_a_fault_of_this_machine_is_not_put_on_the_data(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    owner = {"load": "tasks.TaskManager", "doc_to_text": "api.task.ConfigurableTask"}[place]
    data = stored(tmp_path, "copa")
    if place == "load":
        monkeypatch.setattr(f"lm_eval.{owner}.load", fail)
        with pytest.raises(MemoryError):
            load_tasks(settings("copa"), data)
        return
    (local,) = load_tasks(settings("copa"), data).values()
    monkeypatch.setattr(f"lm_eval.{owner}.doc_to_text", fail)
    with pytest.raises(MemoryError):
        harness._check_documents(local, "copa", data)


def test_an_answer_that_cannot_be_scored_is_told_with_its_row(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{**document} for document in DOCUMENTS["piqa"]]
    rows[3]["sol2"] = "use a key " * 300
    data = tmp_path / "piqa.parquet"
    write_parquet(data, pa.Table.from_pylist(rows))
    packed = PackedModel(model, tokenizer, add_bos=False, batch_tokens=128)
    with pytest.raises(LpstepsError) as caught:
        score_benchmark(packed, settings("piqa"), data, limit=3)
    assert str(caught.value).startswith(f"{data}: row 3 of piqa: ")
    assert "the answer at most 256" in str(caught.value)
