"""Command lines that cannot be meant: of steps run by hand, and of `lpsteps`."""

from __future__ import annotations

from typing import Any

from faults.bad_input import BadInput, unchanged
from faults.commands import Command, Lpsteps, Step


def _command(name: str, command: Command, *says: str) -> BadInput:
    return BadInput(name, unchanged, command, says)


def _spec(name: str, step: str, having: str, spec: dict[str, Any], *says: str) -> BadInput:
    return _command(name, Step(step, having, spec=tuple(spec.items())), *says)


CASES = [
    _command(
        "settings that are no mapping",
        Step("calibrate", options=(("--spec", "[1]"),)),
        "--spec: expected a dict",
    ),
    _command(
        "settings that do not parse",
        Step("calibrate", options=(("--spec", "{"),)),
        "--spec: expected a dict",
    ),
    _command(
        "settings that call a function",
        Step("calibrate", options=(("--spec", "__import__('os').getcwd()"),)),
        "--spec: expected a dict",
    ),
    _spec(
        "a mistyped setting",
        "calibrate",
        "",
        {"window": 3},
        "window: unknown key",
        "did you mean 'windows'?",
    ),
    _spec(
        "no windows to calibrate on", "calibrate", "", {"windows": 0}, "windows: 0", "at least 1"
    ),
    _spec("no token left of a window", "calibrate", "", {"exclude_first": 32}, "exclude_first: 32"),
    _spec("a basis that does not exist", "calibrate", "", {"basis": "walsh"}, "basis: 'walsh'"),
    _spec("no layers to remove", "choose_layers", "", {"n": 0}, "n: 0", "allowed are 1 to 5"),
    _spec("all layers to remove", "choose_layers", "", {"n": 6}, "n: 6", "allowed are 1 to 5"),
    _spec(
        "a model of one layer", "choose_layers", "", {"n_layers": 1}, "n_layers: 1", "at least 2"
    ),
    _spec(
        "a method that does not exist",
        "build_patch",
        "--stats",
        {"method": "linear"},
        "linearpatch",
    ),
    _spec(
        "a parameter that a method has not",
        "build_patch",
        "--stats",
        {"params": {"grouping": "none"}},
        "grouping",
    ),
    _spec("a metric that does not exist", "rank_layers", "--stats", {"metric": "cosine"}, "cosine"),
    _spec(
        "tokens for no pass of the model",
        "evaluate_perplexity",
        "dense",
        {"batch_tokens": 0},
        "batch_tokens: 0",
    ),
    _spec(
        "a number type that does not exist",
        "choose_dtype",
        "",
        {"dtype": "int8"},
        "dtype: 'int8'",
        "must be 'auto', 'float32' or 'bfloat16'",
    ),
    _command(
        "an option without its benchmark",
        Step("evaluate_perplexity", "dense", options=(("--score", "x.json"),)),
        "--score: x.json: expected BENCHMARK=PATH",
    ),
    _command(
        "a benchmark that is not in the suite",
        Step("evaluate_perplexity", "dense", options=(("--score", "ptb=x.json"),)),
        "--score: ptb:",
        "allowed:",
    ),
    _command(
        "a patch without its plan",
        Step("evaluate_perplexity", "linearpatch/", options=(("--plan", None),)),
        "--patch-manifest",
        "needs --plan",
    ),
    _command(
        "a patch that is not beside its manifest",
        Step("build_patch", "--stats", options=(("--patch", "results/x.safetensors"),)),
        "--patch: results/x.safetensors",
        "beside its manifest",
    ),
    _command(
        "statistics that are not named",
        Step("build_patch", "--stats", options=(("--stats", None),)),
        "--stats",
    ),
    _command(
        "a cell that is not on the page",
        Lpsteps(("why", "table02/tiny/n2/nothing/novels")),
        "no such cell",
        "did you mean",
    ),
    _command(
        "a cell of a page that is not there",
        Lpsteps(("why", "x", "--page", "no/where.html")),
        "no/where.json",
        "no such file",
    ),
    _command(
        "a page without its tables",
        Lpsteps(("markdown", "no/where.html")),
        "no/where.json",
        "no such file",
    ),
    _command("a page to export that is not there", Lpsteps(("crate", "no/where.html")), "no/where"),
    _command(
        "a model to describe that is not there",
        Lpsteps(("describe-model", "no/where/at-all")),
        "no/where/at-all",
    ),
    _command("a model to describe without a config", Lpsteps(("describe-model", "data")), "data"),
]
