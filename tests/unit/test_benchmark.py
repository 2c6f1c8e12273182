from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import list_benchmarks, load_benchmark, parse_benchmark

# The metric behind each column of the paper's tables of question answering.
PAPER_METRICS = {
    "arc_challenge": "acc_norm",
    "arc_easy": "acc_norm",
    "boolq": "acc",
    "copa": "acc",
    "hellaswag": "acc_norm",
    "mmlu_humanities": "acc",
    "mmlu_other": "acc",
    "mmlu_social_sciences": "acc",
    "mmlu_stem": "acc",
    "piqa": "acc_norm",
    "race": "acc",
    "winogrande": "acc",
    "wsc273": "acc",
}


def content(**changes: Any) -> dict[str, Any]:
    return load_benchmark("piqa").model_dump() | changes


def test_every_benchmark_file_is_valid() -> None:
    benchmarks = {name: load_benchmark(name) for name in list_benchmarks()}
    metrics = {
        name: benchmark.metric
        for name, benchmark in benchmarks.items()
        if benchmark.protocol == "harness"
    }
    assert metrics == PAPER_METRICS
    assert {name for name in benchmarks if name not in metrics} >= {"wikitext2", "c4", "ptb"}


def test_a_title_is_no_part_of_what_scores_depend_on() -> None:
    renamed = parse_benchmark(content(title="P"), "x.yaml")
    assert renamed.scoring() == load_benchmark("piqa").scoring()
    assert parse_benchmark(content(metric="acc"), "x.yaml").scoring() != renamed.scoring()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "harnes"}, r"^x\.yaml: protocol: harnes: did you mean 'harness'\?"),
        ({"metrics": "acc"}, r"^x\.yaml: metrics: unknown key, did you mean 'metric'\?"),
        ({"metric": "f1"}, r"^x\.yaml: metric: 'f1': "),
        ({"total": 0}, r"^x\.yaml: total: 0: "),
        ({"shots": 5}, r"^x\.yaml: fewshot_split: .*required when shots is above 0"),
        (
            {"shots": 5, "fewshot_split": "validation"},
            r"^x\.yaml: fewshot_split: .*'validation': is the split that is scored, so questions",
        ),
        ({"task": None}, r"^x\.yaml: task_column: give either `task` or `tasks`"),
        ({"tasks": {"a": "b"}}, r"^x\.yaml: task_column: give either `task` or `tasks`"),
        ({"task_column": "subject"}, r"^x\.yaml: task_column: `tasks` and `task_column` need"),
        (
            {"task": None, "tasks": {"a": "b"}},
            r"^x\.yaml: task_column: `tasks` and `task_column` n",
        ),
        (
            {"task": None, "tasks": {"a": "b"}, "task_column": "c", "task_folder": ""},
            r"^x\.yaml: task_folder: required with `tasks`",
        ),
        ({"task_folder": "../piqa"}, r"^x\.yaml: task_folder: '\.\./piqa': must be names with /"),
        ({"task_folder": "a/../b"}, r"^x\.yaml: task_folder: 'a/\.\./b': must be names with /"),
        ({"task_folder": "/piqa"}, r"^x\.yaml: task_folder: '/piqa': must be names with /"),
        ({"task_folder": 3}, r"^x\.yaml: task_folder: 3: must be text"),
        ({"dataset": "a/b"}, r"^x\.yaml: dataset: 'a/b': must be letters, digits and"),
        ({"split": ".."}, r"^x\.yaml: split: '\.\.': must be letters, digits and"),
        ({"fewshot_split": "/a"}, r"^x\.yaml: fewshot_split: '/a': must be letters, digits and"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LpstepsError, match=message):
        parse_benchmark(content(**changes), "x.yaml")


@pytest.mark.parametrize("key", ["corpus", "split"])
def test_running_text_stays_in_its_folder(key: str) -> None:
    text = load_benchmark("wikitext2").model_dump() | {key: "../test"}
    with pytest.raises(LpstepsError, match=rf"^x\.yaml: {key}: '\.\./test': must be letters, "):
        parse_benchmark(text, "x.yaml")


def test_an_unknown_benchmark_gets_the_nearest_name() -> None:
    with pytest.raises(
        LpstepsError, match=r"helaswag\.yaml: no such benchmark: did you mean 'hellaswag'"
    ):
        load_benchmark("helaswag")


def test_the_hidden_files_of_an_editor_are_no_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "piqa.yaml").write_text("title: PIQA")
    (tmp_path / ".#piqa.yaml").symlink_to("somebody@somewhere")
    assert list_benchmarks(tmp_path) == ["piqa"]


@pytest.mark.parametrize("text", ["", "- a list", "title: [", "title: x"])
def test_a_file_that_is_no_benchmark_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(LpstepsError, match=r"^\S+broken\.yaml: [^\n]+$"):
        load_benchmark("broken", tmp_path)


def test_the_workflow_can_read_benchmarks_without_heavy_imports() -> None:
    program = (
        "import sys; from lpsteps.evaluation.benchmark import list_benchmarks, load_benchmark\n"
        "for name in list_benchmarks(): load_benchmark(name)\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'pandas', 'pyarrow', 'numpy'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or None)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
