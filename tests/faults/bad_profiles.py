"""Broken profiles: what a user writes first, and most often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from project import PROFILE

from faults.bad_input import BadInput
from faults.commands import plan
from faults.workspace import DELETE, Workspace

WRONG_TYPES: dict[str, Any] = {
    "definitions": "config/methods.yaml",
    "tables": ["table02"],
    "tables/table02": [2],
    "tables/table02/tiny": "two",
    "figures": "figure1",
    "figures/figure1/tiny": 2,
    "suites": ["qa"],
    "suites/qa": ["copa"],
    "suites/qa/benchmarks": ["copa"],
    "suites/qa/benchmarks/copa": "all",
    "suites/qa/protocol": "lm-eval",
    "suites/qa/add_bos": "maybe",
    "calibration": 3,
    "training_text": ["tiny"],
    "window_length": "long",
    "batch_tokens": 2.5,
    "dtype": "float16",
    "seed": "random",
    "data_root": 7,
    "hub_data": "perhaps",
    "overheads": 100,
}
"""A value of another type than its key takes, for every key of a profile."""

OUT_OF_RANGE: dict[str, Any] = {
    "tables/table02/tiny": [0],
    "tables/table06/tiny": [-1],
    "figures/figure2/tiny": [0],
    "suites/qa/benchmarks/arc_easy": 0,
    "suites/perplexity/benchmarks/novels": -4,
    "window_length": 0,
    "batch_tokens": 0,
    "seed": -1,
    "overheads": {"repetitions": 1},
}
"""A number below the least that its key takes."""

NOT_FINITE: dict[str, Any] = {
    "window_length": float("nan"),
    "seed": float("inf"),
    "overheads": {"seconds": float("nan")},
}

MISSING = ("definitions", "tables", "suites", "calibration")

MISTYPED = {
    "calibraton": "calibration",
    "window_lenght": "window_length",
    "data-root": "data_root",
    "tabels": "tables",
}


def _set(key: str, value: Any) -> Any:
    return lambda workspace: workspace.set(PROFILE, key, value)


def _generated() -> Iterator[BadInput]:
    for key, value in WRONG_TYPES.items():
        where = key.replace("/", ".")
        yield BadInput(f"{where}: {value!r}", _set(key, value), plan, (PROFILE, where))
    for key, value in (*OUT_OF_RANGE.items(), *NOT_FINITE.items()):
        where = key.replace("/", ".")
        yield BadInput(f"{where}: {value!r}", _set(key, value), plan, (PROFILE, where))
    for key in MISSING:
        yield BadInput(
            f"no {key}", _set(key, DELETE), plan, (PROFILE, f"{key}: required, but not given")
        )
    for key, meant in MISTYPED.items():
        yield BadInput(
            f"{key} for {meant}",
            _set(key, 1),
            plan,
            (PROFILE, f"{key}: unknown key, did you mean '{meant}'?"),
        )


def _several(changes: dict[str, Any]) -> Any:
    def edit(workspace: Workspace) -> None:
        for key, value in changes.items():
            workspace.set(PROFILE, key, value)

    return edit


def _written(name: str, says: tuple[str, ...], **changes: Any) -> BadInput:
    edit = _several({key.replace("__", "/"): value for key, value in changes.items()})
    return BadInput(name, edit, plan, says)


ALIASES = "seed:\n- &a0 [x]\n" + "".join(
    f"- &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)
"""Forty million values in nine lines: each alias stands for nine of the one before it."""

CASES = [
    *_generated(),
    _written("a table that is not defined", ("table 'table20'", "allowed:"), tables__table20={}),
    _written(
        "a table's name that leaves its folder", ("tables", "../x"), **{"tables": {"../x": {}}}
    ),
    _written(
        "a model that is not defined",
        ("'tinny'", "did you mean 'tiny'?"),
        tables__table02={"tinny": [1]},
    ),
    _written(
        "as many layers as the model has",
        ("tables.table02.tiny", "cannot remove 6 layers", "allowed: 1 to 5"),
        tables__table02={"tiny": [6]},
    ),
    _written(
        "an absurd number of layers",
        ("tables.table02.tiny", "allowed: 1 to 5"),
        tables__table02={"tiny": [10**30]},
    ),
    _written(
        "a level twice", ("tables.table02.tiny", "listed twice"), tables__table02={"tiny": [2, 2]}
    ),
    _written("a figure that is not defined", ("figure 'figure7'", "allowed:"), figures__figure7={}),
    _written(
        "a figure without a level",
        ("figures.figure1.tiny", "name the numbers"),
        figures__figure1={"tiny": []},
    ),
    _written(
        "true in place of a number of questions",
        ("suites.qa.benchmarks.copa: True", "must be a whole number"),
        suites__qa__benchmarks__copa=True,
    ),
    _written(
        "a benchmark that is not defined",
        ("suites.qa", "did you mean 'copa'?"),
        suites__qa__benchmarks={"coppa": 1},
    ),
    _written(
        "a benchmark in a suite of another protocol",
        ("suites.qa.benchmarks.novels", "belongs to protocol 'perplexity'"),
        suites__qa__benchmarks={"novels": 1},
    ),
    _written(
        "running text with a beginning of its own",
        ("suites.perplexity.add_bos", "model's entry"),
        suites__perplexity__add_bos=True,
    ),
    _written(
        "a benchmark in two suites",
        ("'copa' is in more than one suite",),
        suites__more={"protocol": "harness", "benchmarks": {"copa": 1}},
    ),
    _written(
        "a benchmark without data",
        ("suites.qa.benchmarks.piqa", "dataset 'piqa' is not defined"),
        suites__qa__benchmarks={"piqa": 1},
    ),
    _written(
        "a benchmark whose file is not there",
        ("calibration: wikipedia", "put wikipedia.parquet into data_root, config"),
        suites__perplexity__benchmarks={"stories": 1},
        data_root="config",
        calibration="wikipedia",
    ),
    _written(
        "a suite's name that leaves its folder",
        ("suites", "../qa"),
        suites={"../qa": {"protocol": "harness", "benchmarks": {}}},
    ),
    _written(
        "a suite's name that would end a command",
        ("suites", "qa; ls"),
        suites={"qa; ls": {"protocol": "harness", "benchmarks": {}}},
    ),
    _written(
        "a calibration that is not defined",
        ("calibration 'wiki'", "did you mean 'wikipedia'?"),
        calibration="wiki",
    ),
    _written(
        "a training text that is not defined",
        ("training text 'tinny'", "did you mean 'tiny'?"),
        training_text="tinny",
    ),
    _written(
        "a distilled recovery without a training text",
        ("training_text: null", "allowed: tiny"),
        training_text=None,
    ),
    _written(
        "a data folder that is not there",
        ("data_root: no/where", "no such folder"),
        data_root="no/where",
    ),
    _written(
        "a data folder that is a file",
        ("data_root: Snakefile", "no such folder"),
        data_root="Snakefile",
    ),
    _written(
        "a model folder that is not there",
        ("model_root: no/where", "no such folder"),
        model_root="no/where",
    ),
    _written(
        "a definition file that is not there",
        ("config/none.yaml", "cannot be read"),
        definitions=["config/none.yaml"],
    ),
    _written(
        "a definition file twice",
        ("config/methods.yaml", "already defined in"),
        definitions=["config/tiny_definitions.yaml", "config/methods.yaml", "config/methods.yaml"],
    ),
    _written("no definition file", ("calibration 'wikipedia' is not defined",), definitions=[]),
    _written(
        "a folder in place of a definition file",
        ("config", "cannot be read"),
        definitions=["config"],
    ),
    BadInput(
        "a profile that is not YAML",
        lambda w: w.write(PROFILE, "tables: ["),
        plan,
        (PROFILE, "not valid YAML"),
    ),
    BadInput(
        "a profile that is a list",
        lambda w: w.write(PROFILE, "- a\n"),
        plan,
        (PROFILE, "expected a mapping"),
    ),
    BadInput(
        "an empty profile", lambda w: w.write(PROFILE, ""), plan, (PROFILE, "expected a mapping")
    ),
    BadInput(
        "a profile that is not UTF-8",
        lambda w: w.write(PROFILE, b"seed: \xff\n"),
        plan,
        (PROFILE, "not UTF-8 text"),
    ),
    BadInput(
        "a profile with a NUL byte",
        lambda w: w.write(PROFILE, b"seed: \x00\n"),
        plan,
        (PROFILE, "not valid YAML"),
    ),
    BadInput(
        "a profile that asks for a Python object",
        lambda w: w.write(PROFILE, "seed: !!python/object/apply:os.getcwd []\n"),
        plan,
        (PROFILE, "not valid YAML"),
    ),
    BadInput(
        "a profile whose key is a list",
        lambda w: w.write(PROFILE, "? [a, b]\n: 1\n"),
        plan,
        (PROFILE, "not valid YAML"),
    ),
    BadInput(
        "a profile whose key is a number",
        lambda w: w.change(PROFILE, lambda content: content.update({1: 2})),
        plan,
        (PROFILE, "1: "),
    ),
    BadInput(
        "a profile that is not there",
        lambda w: w.remove(PROFILE),
        plan,
        (PROFILE, "cannot be read"),
    ),
    BadInput(
        "aliases that stand for forty million values",
        lambda w: w.write(PROFILE, w.read(PROFILE) + ALIASES.encode()),
        plan,
        (PROFILE, "seed: ", "must be a whole number"),
    ),
]
