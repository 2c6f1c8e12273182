"""`make check-harness` finds what differs, on a tiny model and made-up files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import check_harness
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tokenizer import VOCABULARY, train_tokenizer

from lpsteps.artifacts import file_manifest, write_json, write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import load_benchmark
from lpsteps.evaluation.harness import load_tasks

MMLU = load_benchmark("mmlu_social_sciences")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Files named like the user's own: COPA, MMLU with unequal subjects, and text."""
    folder = tmp_path / "data"
    folder.mkdir()
    copa = [
        {
            "premise": f"The man number {i} ran.",
            "choice1": "He was late.",
            "choice2": "He slept.",
            "question": ["cause", "effect"][i % 2],
            "idx": i,
            "label": i % 2,
        }
        for i in range(9)
    ]
    subjects = [*MMLU.tasks.values(), "anatomy"]

    def questions(kind: str, counts: dict[str, int]) -> list[dict[str, Any]]:
        return [
            {
                "question": f"{kind} question {i} on {subject}?",
                "subject": subject,
                "choices": [f"the {i} cat", "a dog", "no answer", "yes"],
                "answer": (3 * i + len(subject)) % 4,
            }
            for subject, count in counts.items()
            for i in range(count)
        ]

    tables = {
        "copa_superglue_validation": copa,
        "mmlu_dev": questions("dev", dict.fromkeys(subjects, 5)),
        "mmlu_test": questions("test", {s: 1 + i % 3 for i, s in enumerate(subjects)}),
        "wikitext2_raw_test": [
            {"text": f"The cat number {i} sat on {i * i} tables. " * 9} for i in range(60)
        ],
    }
    for name, rows in tables.items():
        write_parquet(folder / f"{name}.parquet", pa.Table.from_pylist(rows))
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny_model: Any) -> Path:
    folder = tmp_path / "model"
    tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=2048).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    manifest = file_manifest(folder, [path.name for path in folder.iterdir()])
    write_json(folder / "manifest.json", manifest)
    return folder


def options(data_root: Path, model: Path) -> list[str]:
    return ["--data-root", str(data_root), "--folder", str(model)]


def test_perplexity_is_compared_with_plain_transformers(
    data_root: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*options(data_root, model), "wikitext2=3"]
    assert check_harness.main(arguments) == 0
    assert "wikitext2              n=3 " in capsys.readouterr().out
    honest = check_harness.plain_perplexity
    monkeypatch.setattr(check_harness, "plain_perplexity", lambda *a, **k: honest(*a, **k) + 2e-4)
    assert check_harness.main(arguments) == 1


def test_windows_with_a_bos_token_of_their_own_are_compared_as_such(
    data_root: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = check_harness.check_config

    def with_bos(*arguments: Any) -> Any:
        config = made(*arguments)
        models = config.definitions.models
        changes = {"add_bos": True, "bos_in_windows": True}
        models["smollm2-135m"] = models["smollm2-135m"].model_copy(update=changes)
        return config

    monkeypatch.setattr(check_harness, "check_config", with_bos)
    assert check_harness.main([*options(data_root, model), "wikitext2=3"]) == 0
    assert "wikitext2              n=3 " in capsys.readouterr().out


def test_task_files_give_the_prompts_of_our_tasks(data_root: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    names = ["copa", "mmlu_social_sciences"]
    config = check_harness.check_config(dict.fromkeys(names), data_root)
    folder = tmp_path / "tasks"
    folder.mkdir()
    written = check_harness.write_tasks(config, names, folder)
    assert [len(tasks) for tasks in written.values()] == [1, 12]
    manager = TaskManager(include_path=folder, include_defaults=False)
    for name in names:
        files = [
            check_harness.file_of(config, *pair) for pair in check_harness.splits_of(config, name)
        ]
        ours = load_tasks(config.benchmarks[name], files[0], fewshot=[*files, None][1])
        for task, local in ours.items():
            (theirs,) = manager.load([f"local_{task}"])["tasks"].values()
            for one in (theirs, local.task):
                one.set_fewshot_seed(seed=0)
                one.build_all_requests()
            assert [r.args for r in local.task.instances] == [r.args for r in theirs.instances]


def test_differences_are_found() -> None:
    score = {"samples": {"ids": [2, 4, 7, 9], "values": [1, 0, 1, 1]}}
    assert check_harness.differing_rows(score, {2: 1, 4: 0, 7: 1, 9: 1}) == []
    assert check_harness.differing_rows(score, {2: 0, 4: 0, 7: 1, 8: 1}) == [2, 8, 9]
    limits, parts = check_harness.parsed_limits(["copa", "mmlu_stem=5", "piqa=20:30"])
    assert limits == {"copa": None, "mmlu_stem": 5, "piqa": None}
    assert parts == {"piqa": slice(20, 30)}
    for word in ("piqa=", "piqa=x", "piqa=1:", "=3", "piqa=-1"):
        with pytest.raises(LpstepsError, match="must be NAME, NAME=LIMIT or NAME=START:STOP"):
            check_harness.parsed_limits([word])


def test_a_part_is_of_a_file_that_no_other_benchmark_reads(data_root: Path, tmp_path: Path) -> None:
    """It would be cut for both, or as the last one says."""
    names = ["mmlu_social_sciences", "mmlu_other"]
    config = check_harness.check_config(dict.fromkeys(names), data_root)
    with pytest.raises(LpstepsError, match="mmlu_other has the same file; check them one by one"):
        check_harness.cut_data(config, {names[0]: slice(0, 3)}, tmp_path)


def test_a_part_of_a_benchmark_is_some_of_its_rows(data_root: Path, tmp_path: Path) -> None:
    config = check_harness.check_config({"copa": None}, data_root)
    folder = tmp_path / "cut"
    folder.mkdir()
    cut = check_harness.cut_data(config, {"copa": slice(1, 3)}, folder)
    name = "copa_superglue_validation.parquet"
    whole = pq.read_table(data_root / name)
    assert pq.read_table(cut / name).equals(whole.slice(1, 2))
    others = {path.name for path in data_root.iterdir()} - {name}
    assert {path.name for path in cut.iterdir() if path.is_symlink()} == others
    (tmp_path / "none").mkdir()
    with pytest.raises(LpstepsError, match=r"copa: 900:901: it has \d+ rows"):
        check_harness.cut_data(config, {"copa": slice(900, 901)}, tmp_path / "none")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LpstepsError, match=r"copa: needs copa_superglue_validation\.parquet there"):
        check_harness.check_config({"copa": None}, tmp_path)


@pytest.mark.slow
def test_questions_are_compared_with_the_command_line_of_the_harness(
    data_root: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*options(data_root, model), "copa", "mmlu_social_sciences=17"]
    assert check_harness.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("copa                   n=9 ") for line in lines)
    assert any(line.startswith("mmlu_social_sciences   n=17 ") for line in lines)
    assert sum(line.endswith("differing documents: none") for line in lines) == 2

    honest = check_harness.our_scores

    def wrong(*given: Any) -> dict[str, Any]:
        scores = json.loads(json.dumps(honest(*given)))
        values = scores["copa"]["samples"]["values"]
        values[3] = 1 - values[3]
        scores["copa"]["value"] = 100 * math.fsum(values) / len(values)
        return scores

    monkeypatch.setattr(check_harness, "our_scores", wrong)
    assert check_harness.main([*options(data_root, model), "copa"]) == 1
    assert "differing documents: [3]" in capsys.readouterr().out
