"""Broken definitions of tables, figures and benchmarks, and broken files of printed numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faults.bad_input import BadInput
from faults.commands import Command, Ended, Step, plan
from faults.workspace import DELETE, Workspace
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.benchmark import load_benchmark

TABLE = "reports/tables/table02.yaml"
FIGURE = "reports/figures/figure1.yaml"
PRINTED = "reports/published/table02.csv"
COPA = "lpsteps/evaluation/benchmarks/copa.yaml"
BUILD = Step("build_tables")


def _in_table(name: str, key: str, value: Any, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.set(TABLE, key, value), plan, (TABLE, *says))


def _in_figure(name: str, key: str, value: Any, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.set(FIGURE, key, value), plan, (FIGURE, *says))


def read_copa(root: Path) -> Ended:
    """Read the project's own copy of a benchmark's file, as planning does the installed one."""
    try:
        load_benchmark("copa", Path(COPA).parent)
    except LpstepsError as error:
        return Ended(1, f"error: {error}\n")
    return Ended(0, "")


def _in_benchmark(name: str, key: str, value: Any, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.set(COPA, key, value), read_copa, (COPA, *says))


def _printed(name: str, old: str, new: str, *says: str) -> BadInput:
    def edit(workspace: Workspace) -> None:
        text = workspace.read(PRINTED).decode()
        assert old in text, old
        workspace.write(PRINTED, text.replace(old, new, 1))

    return BadInput(name, edit, BUILD, (PRINTED, *says))


def _file(name: str, file: str, content: bytes, command: Command, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.write(file, content), command, (file, *says))


CASES = [
    _in_table(
        "a table's id that is not its file's name", "id", "table03", "id: 'table03'", "'table02'"
    ),
    _in_table("a table's id with a slash", "id", "../x", "id", "small letters"),
    _in_table("a table without columns", "columns", [], "columns", "must list at least 1"),
    _in_table("a table without rows", "rows", [], "rows", "must list at least 1"),
    _in_table("a table without a title", "title", DELETE, "title: required"),
    _in_table("a mistyped key of a table", "captoin", "x", "did you mean 'caption'?"),
    _in_table("a column of an unknown kind", "columns/0/kind", "median", "columns.0.kind"),
    _in_table("a column with another unit", "columns/0/unit", "bytes", "unit: 'bytes'"),
    _in_table("a mean of nothing", "columns/0/kind", "mean", "`of` lists benchmarks"),
    _in_table("a column of columns", "columns/0/of", ["copa"], "`of` lists benchmarks"),
    _in_table("a mistyped key of a row", "rows/0/selektion", "sleb", "did you mean 'selection'?"),
    _in_table("a row's id with a space", "rows/0/id", "a row", "rows.0.id"),
    _in_table("a bar of a column that is not there", "glance", ["coppa"], "coppa"),
    _in_table("a reference row that is not there", "reference_row", "nothing", "reference_row"),
    BadInput(
        "two rows with one id",
        lambda w: w.change(TABLE, lambda c: c["rows"].append(c["rows"][-1])),
        plan,
        (TABLE, "row"),
    ),
    BadInput(
        "two columns with one id",
        lambda w: w.change(TABLE, lambda c: c["columns"].append(c["columns"][0])),
        plan,
        (TABLE, "column"),
    ),
    BadInput(
        "a width pruning that is repaired",
        lambda w: w.set("reports/tables/rivals.yaml", "rows/3/recovery", "linearpatch"),
        plan,
        ("reports/tables/rivals.yaml", "recovery: linearpatch", "leave it out"),
    ),
    _file("a table that is not YAML", TABLE, b"id: [", plan, "not valid YAML"),
    _file("an empty table", TABLE, b"", plan, "must be a mapping"),
    _file("a table that is a list", TABLE, b"- id: x\n", plan, "must be a mapping"),
    _in_figure(
        "a figure of a selection that is not defined", "selection", "sleep", "did you mean 'sleb'?"
    ),
    _in_figure(
        "a figure of single layers", "selection", "sleb", "does not remove one window", "allowed:"
    ),
    _in_figure("a figure of an unknown kind", "kind", "pie", "kind"),
    _in_figure("a figure's id that is not its file's name", "id", "figure9", "'figure1'"),
    _in_benchmark(
        "a benchmark of an unknown protocol",
        "protocol",
        "lm-eval",
        "protocol: lm-eval",
        "allowed:",
    ),
    _in_benchmark("a benchmark without its metric", "metric", DELETE, "metric: required"),
    _in_benchmark(
        "a benchmark with a metric that is not reported", "metric", "f1", "metric: 'f1'", "'acc'"
    ),
    _in_benchmark("a benchmark without a dataset", "dataset", DELETE, "dataset: required"),
    _in_benchmark(
        "a benchmark with fewer than no examples", "shots", -1, "shots: -1", "at least 0"
    ),
    _in_benchmark("a benchmark with examples from nowhere", "shots", 5, "fewshot_split: required"),
    _in_benchmark("a benchmark of no documents", "total", 0, "total: 0", "greater than 0"),
    _in_benchmark(
        "a benchmark of two kinds of tasks", "tasks", {"copa": "x"}, "either `task` or `tasks`"
    ),
    _in_benchmark("a mistyped key of a benchmark", "shot", 0, "did you mean 'shots'?"),
    _file("a benchmark that is a list", COPA, b"- 1\n", read_copa, "expected a mapping"),
    _file("a benchmark that is not UTF-8", COPA, b"\xff", read_copa, "not UTF-8 text"),
    _printed("printed numbers without a header", "table,", "tabel,", "line 1: the columns must be"),
    _printed("a printed line with a cell too many", "5.47", "5,47", "line 2", "expected 14 cells"),
    _printed(
        "a printed line with a cell too few", "5.47,perplexity,", "5.47", "line 2", "expected"
    ),
    _printed("a printed number of layers in words", "LLaMA-2-7B,0", "LLaMA-2-7B,none", "line 2"),
    _printed(
        "a printed line of another table", "table02", "table03", "line 2", "must be 'table02'"
    ),
    _printed("a printed dense model with layers removed", "7B,0", "7B,3", "line 2", "'none'"),
    _file("no printed numbers", PRINTED, b"", BUILD, "line 1: the columns must be"),
    _file("printed numbers that are not UTF-8", PRINTED, b"\xff\xfe\n", BUILD, "not UTF-8 text"),
]
