"""Damaged results: what disks, crashes and hands do to files between two steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from faults.bad_input import BadInput
from faults.commands import Step, job_of
from faults.workspace import DELETE, Workspace

INPUTS: dict[str, tuple[str, ...]] = {
    "tokenize_corpus": ("--model", "--data"),
    "choose_dtype": ("--model",),
    "extend_windows": ("--model", "--compute", "--windows"),
    "calibrate": ("--model", "--compute", "--windows"),
    "measure_token_scales": ("--plan", "--model", "--compute", "--windows"),
    "rank_layers": ("--stats",),
    "choose_layers": ("--ranking",),
    "prune_width": ("--model", "--compute", "--windows"),
    "measure_moments": ("--plan", "--model", "--compute", "--windows"),
    "build_patch": ("--stats", "--plan", "--model"),
    "distill": ("--start", "--plan", "--model", "--compute", "--fit", "--heldout"),
    "evaluate_perplexity": ("--plan", "--patch-manifest", "--model", "--compute", "--windows"),
    "evaluate_harness": ("--model", "--compute", "--data"),
    "build_tables": ("--inputs",),
    "render_report": ("--tables",),
}
"""The options of each step that name a file which another step has written."""

DAMAGES: dict[str, Callable[[Workspace, str], None]] = {
    "is missing": lambda workspace, name: workspace.remove(name),
    "has one bit flipped": lambda workspace, name: workspace.flip_bit(name),
}


def input_of(root: Path, step: Step, option: str) -> str:
    """The file that the job of a step is given with an option."""
    command = job_of(root, step.rule, step.having)["command"]
    value = str(command[command.index(option) + 1])
    return value.rpartition("=")[2]


def _damaged(rule: str, option: str, damage: str) -> BadInput:
    having = option if option.startswith("--p") or option == "--stats" else ""
    step = Step(rule, having)

    def edit(workspace: Workspace) -> None:
        DAMAGES[damage](workspace, input_of(workspace.root, step, option))

    remedy = ("snakemake",) if damage == "is missing" else ("delete",)
    return BadInput(f"{rule}: {option} {damage}", edit, step, (rule, *remedy))


def _generated() -> Iterator[BadInput]:
    for rule, options in INPUTS.items():
        for option in options:
            # The tables leave out what does not verify, and say why in its cells.
            for damage in ("is missing",) if rule == "build_tables" else DAMAGES:
                yield _damaged(rule, option, damage)


STATS = "results/tiny/calibration/wikipedia/stats.parquet"
COMPUTE = "results/tiny/compute.json"
WINDOWS = "results/tiny/windows/wikipedia/calibration.parquet"
PLAN = "results/tiny/calibration/wikipedia/selection/llm-streamline/n2/plan.json"
PATCH = PLAN.replace("plan.json", "linearpatch/patch.safetensors")
MANIFEST = PLAN.replace("plan.json", "linearpatch/patch.manifest.json")
RANKING = PLAN.replace("n2/plan.json", "ranking.parquet")
LINEARPATCH = Step("build_patch", "llm-streamline/n2/linearpatch/")
PATCHED = Step("evaluate_perplexity", "llm-streamline/n2/linearpatch/")
CALIBRATE = Step("calibrate", "tiny/calibration")
CHOOSE = Step("choose_layers", RANKING)


def _json(name: str, file: str, key: str, value: Any, step: Step, *says: str) -> BadInput:
    def edit(workspace: Workspace) -> None:
        workspace.set(file, key, value)
        workspace.remove(f"{file}.record.json")

    return BadInput(name, edit, step, says)


def _table(
    name: str, file: str, edit: Callable[[pa.Table], pa.Table], step: Step, *says: str
) -> BadInput:
    def change(workspace: Workspace) -> None:
        workspace.change_table(file, edit)
        workspace.remove(f"{file}.record.json")

    return BadInput(name, change, step, says)


def _patch(name: str, value: float, *says: str) -> BadInput:
    def edit(workspace: Workspace) -> None:
        tensors = load(workspace.read(PATCH))
        first = min(tensors)  # the file itself keeps no order
        tensors[first] = np.full_like(tensors[first], value)
        workspace.write_unrecorded(PATCH, save(tensors))

    return BadInput(name, edit, PATCHED, says)


def _values(value: float) -> Callable[[pa.Table], pa.Table]:
    """Make all values of a file of statistics the same."""

    def edit(table: pa.Table) -> pa.Table:
        column = pa.array(
            [[value] * len(row) for row in table["values"].to_pylist()],
            table.schema.field("values").type,
        )
        return table.set_column(table.schema.get_field_index("values"), "values", column)

    return edit


CASES = [
    *_generated(),
    _json(
        "a plan of a layer that the model has not",
        PLAN,
        "order",
        [3, 99],
        LINEARPATCH,
        PLAN,
        "order: 99",
    ),
    _json(
        "a plan that removes a layer twice", PLAN, "order", [3, 3], LINEARPATCH, PLAN, "only once"
    ),
    _json(
        "a plan whose gaps are others than its layers'",
        PLAN,
        "gaps",
        [[0, 1]],
        LINEARPATCH,
        PLAN,
        "do not follow",
    ),
    _json(
        "a plan whose gaps overlap",
        PLAN,
        "gaps",
        [[2, 4], [3, 5]],
        LINEARPATCH,
        PLAN,
        "do not follow",
    ),
    _json("a plan of another count", PLAN, "n", 3, LINEARPATCH, PLAN, "n: 3"),
    _json("a plan without an order", PLAN, "order", DELETE, LINEARPATCH, PLAN, "order: required"),
    _json("a plan with layers in words", PLAN, "layers", ["two"], LINEARPATCH, PLAN, "layers.0"),
    _json("a plan of another version", PLAN, "schema", 2, LINEARPATCH, PLAN, "schema"),
    _json(
        "a plan for a larger model", PLAN, "n_layers", 12, LINEARPATCH, "6 layers of 48 channels"
    ),
    _json(
        "a number type that is not offered",
        COMPUTE,
        "dtype",
        "float16",
        CALIBRATE,
        COMPUTE,
        "dtype: 'float16'",
        "must be 'float32' or 'bfloat16'",
    ),
    _json(
        "an unknown device",
        COMPUTE,
        "device",
        "tpu",
        CALIBRATE,
        COMPUTE,
        "device: 'tpu'",
        "must be 'cpu' or 'cuda'",
    ),
    _json(
        "a device that is not there",
        COMPUTE,
        "device",
        "cuda",
        CALIBRATE,
        COMPUTE,
        "delete it to choose again",
    ),
    _json("no device", COMPUTE, "device", DELETE, CALIBRATE, COMPUTE, "device: required"),
    _json(
        "a manifest of patches of another version",
        MANIFEST,
        "schema",
        9,
        PATCHED,
        MANIFEST,
        "schema",
    ),
    _json(
        "a manifest of other patches than its tensors",
        MANIFEST,
        "parameters",
        1,
        PATCHED,
        MANIFEST,
        "parameters: 1",
    ),
    _patch("a patch that is not a number", float("nan"), "patch"),
    _patch("an infinite patch", float("inf"), "patch"),
    _patch("a patch of zeros in place of the built one", 0.0, "patch"),
    _table(
        "statistics that are not numbers",
        STATS,
        _values(float("nan")),
        LINEARPATCH,
        "delete it to rebuild it",
    ),
    _table(
        "statistics without a column",
        STATS,
        lambda t: t.drop_columns(["values"]),
        LINEARPATCH,
        "values",
    ),
    _table(
        "statistics without a row",
        STATS,
        lambda t: t.slice(0, 0),
        LINEARPATCH,
        "delete it to rebuild it",
    ),
    _table(
        "statistics with rows lost",
        STATS,
        lambda t: t.slice(0, t.num_rows // 2),
        LINEARPATCH,
        "delete it to rebuild it",
    ),
    _table(
        "statistics without their facts",
        STATS,
        lambda t: t.replace_schema_metadata({}),
        LINEARPATCH,
        "not a statistics file",
    ),
    _table(
        "windows without tokens",
        WINDOWS,
        lambda t: t.drop_columns(["token_ids"]),
        CALIBRATE,
        "token_ids",
    ),
    _table("no windows", WINDOWS, lambda t: t.slice(0, 0), CALIBRATE, "0 windows"),
    _table(
        "fewer windows than the calibration asks for",
        WINDOWS,
        lambda t: t.slice(0, 1),
        CALIBRATE,
        "has 1 windows",
        "ask for fewer",
    ),
    _table(
        "windows of several lengths",
        WINDOWS,
        lambda t: t.set_column(
            t.schema.get_field_index("token_ids"),
            "token_ids",
            pa.array([[1] * (2 + row) for row in range(t.num_rows)]),
        ),
        CALIBRATE,
        "expected windows of one length",
    ),
    _table(
        "windows with a token that the model has not",
        WINDOWS,
        lambda t: t.set_column(
            t.schema.get_field_index("token_ids"),
            "token_ids",
            pa.array([[10**6] * 32] * t.num_rows),
        ),
        CALIBRATE,
        "token ids 1000000",
    ),
    _table(
        "windows with a negative token",
        WINDOWS,
        lambda t: t.set_column(
            t.schema.get_field_index("token_ids"), "token_ids", pa.array([[-1] * 32] * t.num_rows)
        ),
        CALIBRATE,
        "token ids -1",
    ),
    _table("a ranking without ranks", RANKING, lambda t: t.drop_columns(["rank"]), CHOOSE, "n: 1"),
    _table("a ranking without rows", RANKING, lambda t: t.slice(0, 0), CHOOSE, "n: 1"),
    BadInput(
        "a record that was edited",
        lambda w: w.set(f"{PLAN}.record.json", "rule", "by_hand"),
        LINEARPATCH,
        (f"{PLAN}.record.json", "delete it to rebuild"),
    ),
    BadInput(
        "a record of another version",
        lambda w: w.set(f"{PLAN}.record.json", "schema", 99),
        LINEARPATCH,
        (f"{PLAN}.record.json", "delete it to rebuild"),
    ),
    BadInput(
        "a record that is not JSON",
        lambda w: w.write(f"{PLAN}.record.json", "{"),
        LINEARPATCH,
        (f"{PLAN}.record.json", "delete it to rebuild"),
    ),
    BadInput(
        "a manifest that names a file outside of its folder",
        lambda w: w.write_unrecorded(
            "resources/models/tiny/manifest.json",
            json.dumps(
                {
                    "files": {
                        "../../../data/copa_validation.parquet": {"sha256": "0" * 64, "bytes": 1}
                    }
                }
            ),
        ),
        CALIBRATE,
        ("manifest.json", "outside"),
    ),
    BadInput(
        "a manifest without files",
        lambda w: w.write_unrecorded("resources/models/tiny/manifest.json", "{}"),
        CALIBRATE,
        ("manifest.json", "files"),
    ),
    BadInput(
        "a manifest whose files are a list",
        lambda w: w.write_unrecorded(
            "resources/models/tiny/manifest.json", '{"files": ["config.json"]}'
        ),
        CALIBRATE,
        ("manifest.json", "files"),
    ),
]
