"""The edit matrix: which jobs an edit makes Snakemake plan, exactly.

Each row edits a copy of a finished project and compares the planned jobs with the stated ones. A
job is known by its log file, which holds the rule and all wildcards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from project import CHECKOUT, PROFILE, snakemake, write_yaml

NOTHING: tuple[str, ...] = ()
REPORT = ("build_tables/", "render_report/")


def planned(project: Path, python: Path, *options: str) -> set[str]:
    """The jobs of a dry run."""
    run = snakemake(project, "-n", "-p", "reports/tables.html", *options, python=python)
    assert run.returncode == 0, run.stdout
    return set(re.findall(r"--log logs/(\S+)\.log", run.stdout))


@pytest.fixture(scope="session")
def every_job(finished: Path, warm_python: Path) -> set[str]:
    return planned(finished, warm_python, "--forceall")


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        text = (project / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        (project / path).write_text(text.replace(old, new))

    return edit


def append(path: str, text: str) -> Callable[[Path], None]:
    """Add code at the end of a module: the smallest edit that changes what it defines."""

    def edit(project: Path) -> None:
        with (project / path).open("a") as stream:
            stream.write(text)

    return edit


def code(path: str) -> Callable[[Path], None]:
    return append(path, "\nADDED_BY_AN_EDIT = 1\n")


def configure(path: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change a YAML file through its content."""

    def edit(project: Path) -> None:
        content = yaml.safe_load((project / path).read_text())
        change(content)
        write_yaml(project / path, content)

    return edit


def modules(project: Path) -> list[Path]:
    return sorted((project / "lpsteps").rglob("*.py"))


def comments(project: Path) -> None:
    for module in modules(project):
        module.write_text("# A comment.\n" + module.read_text() + "\n# Another one.\n")


def docstrings(project: Path) -> None:
    for module in modules(project):
        text = module.read_text()
        head, quotes, rest = text.partition('"""')
        assert quotes and all(line.startswith("#") for line in head.splitlines())
        module.write_text(f'{head}"""Rewritten. {rest}')


def formatting(project: Path) -> None:
    subprocess.run(
        ["ruff", "format", "--line-length", "60", "--no-cache", "--isolated", "lpsteps"],
        cwd=project,
        check=True,
        env={**os.environ, "PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
    )
    assert any(
        module.read_bytes() != (CHECKOUT / module.relative_to(project)).read_bytes()
        for module in modules(project)
    )


def touch_everything(project: Path) -> None:
    for path in sorted(project.rglob("*"), reverse=True):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)


def fresh_clone_with_copied_results(project: Path) -> None:
    """New files for everything, written in an order that has nothing to do with the DAG."""
    for name in ("lpsteps", "workflow", "config", "reports", "data", "resources", "results"):
        moved = project / f"{name}.old"
        (project / name).rename(moved)
        shutil.copytree(moved, project / name, copy_function=shutil.copyfile)
        shutil.rmtree(moved)


def rename_function(project: Path) -> None:
    """Rename `read_plan` wherever it occurs: its module and the steps that call it."""
    for module in modules(project):
        text = module.read_text()
        if "read_plan" in text:
            module.write_text(text.replace("read_plan", "load_the_plan"))


def change_data(project: Path) -> None:
    """Another COPA file under the same name."""
    import pyarrow.parquet as pq

    path = project / "data/copa_validation.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def add_row(table: str, row: dict[str, str]) -> Callable[[Path], None]:
    return configure(f"reports/tables/{table}.yaml", lambda content: content["rows"].append(row))


def drop_row(table: str, row_id: str) -> Callable[[Path], None]:
    def change(content: dict) -> None:
        kept = [row for row in content["rows"] if row["id"] != row_id]
        assert len(kept) == len(content["rows"]) - 1
        content["rows"] = kept

    return configure(f"reports/tables/{table}.yaml", change)


def in_turn(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        for single in edits:
            single(project)

    return edit


def add_table(project: Path) -> None:
    text = (project / "reports/tables/table02.yaml").read_text()
    (project / "reports/tables/tablexx.yaml").write_text(text.replace("table02", "tablexx"))
    (project / "reports/published/tablexx.csv").write_text(
        (project / "reports/published/table02.csv").read_text().splitlines()[0] + "\n"
    )
    configure(PROFILE, lambda c: c["tables"].update(tablexx={"tiny": [2]}))(project)


NEW_METHOD = '''"""Halve every channel: a repair that helps nobody, in one file."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.recovery.base import RecoveryContext

TITLE = "Half"
PAPER = ""
NEEDS: frozenset[str] = frozenset()


class Params(BaseModel):
    """No parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def build(context: RecoveryContext, params: Params) -> PatchSet:
    """Build the patch."""
    half = Operation("scale", np.full(context.hidden_size, 0.5))
    return PatchSet(tuple(GapPatch(start, end, (half,)) for start, end in context.plan.gaps))
'''


def add_method(project: Path) -> None:
    """One file, one entry, one row: what docs/add-a-method.md asks for."""
    (project / "lpsteps/recovery/half.py").write_text(NEW_METHOD)
    half = {"title": "Half", "method": "half"}
    configure("config/methods.yaml", lambda c: c["recoveries"].update(half=half))(project)
    row = {"id": "sl+half", "label": "+ Half", "selection": "llm-streamline", "recovery": "half"}
    add_row("table02", row)(project)


def hidden_files(project: Path) -> None:
    (project / "reports/templates/.DS_Store").write_bytes(b"\x00\xff")
    (project / "lpsteps/evaluation/benchmarks/.#piqa.yaml").symlink_to("somebody@somewhere")
    (project / "reports/tables/.#table02.yaml").symlink_to("somebody@somewhere")
    (project / "lpsteps/recovery/.#lora.py").symlink_to("somebody@somewhere")


SCORES = r"evaluate_(perplexity|harness)/tiny/"
PLAN = r"(rank_layers|choose_layers|build_patch|evaluate_\w+)/tiny.*"
MOMENTS = (
    "measure_moments/",
    r"build_patch/.*least-squares",
    SCORES + r".*least-squares/",
)
REFIT = (r"build_patch/.*branch-refit", SCORES + r".*branch-refit/")
WIDTH = ("prune_width/", SCORES + r".*width/narrow/")
DISTILLED = ("distill/", SCORES + r".*linearpatch\+ft/")
STATISTICS = (
    "calibrate/",
    # The plan behind a ranking from statistics may be another one.
    "measure_moments/",
    "measure_token_scales/",
    "distill/",
    r"(rank_layers|choose_layers)/.*(shortgpt|llm-streamline)",
    r"build_patch/.*(shortgpt|llm-streamline|linearpatch|channel-scale)",
    SCORES + r"calibration/.*(shortgpt|llm-streamline|linearpatch|channel-scale)",
)

# Edit -> (what to do, patterns of the jobs that it invalidates, and no others).
MATRIX: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "comments in every module": (comments, NOTHING),
    "docstrings of every module": (docstrings, NOTHING),
    "formatting of every module": (formatting, NOTHING),
    "touch of every file": (touch_everything, NOTHING),
    "fresh clone with copied results": (fresh_clone_with_copied_results, NOTHING),
    "comment in the profile": (append(PROFILE, "# a comment\n"), NOTHING),
    "hidden files of editors": (hidden_files, NOTHING),
    "module that no step imports": (
        lambda project: (project / "lpsteps/unused.py").write_text('"""Unused."""\nX = 1\n'),
        NOTHING,
    ),
    "method that no variant uses": (code("lpsteps/selection/random_layers.py"), NOTHING),
    "config loader": (code("lpsteps/config/loading.py"), NOTHING),
    "what jobs ask a cluster for": (
        in_turn(
            code("lpsteps/job_resources.py"),
            configure("config/tiny_definitions.yaml", lambda c: c["models"]["tiny"].update(gpus=1)),
            configure(PROFILE, lambda c: c.update(gpu_gres="gpu:a100")),
        ),
        NOTHING,
    ),
    "one repair method": (
        code("lpsteps/recovery/channel_scale.py"),
        (r"build_patch/.*channel-scale", SCORES + r".*channel-scale/", *REPORT),
    ),
    "repair method of two entries": (
        code("lpsteps/recovery/linearpatch.py"),
        (r"(build_patch|distill)/.*linearpatch", SCORES + r".*linearpatch", *REPORT),
    ),
    "repair that does nothing": (
        code("lpsteps/recovery/none.py"),
        (r"build_patch/.*\.none", SCORES + r".*/none/", *REPORT),
    ),
    "one metric": (
        code("lpsteps/selection/block_influence.py"),
        (PLAN + "shortgpt", r"(rank|choose)_layers/tiny-b.*shortgpt", *REPORT),
    ),
    "the metric that runs the model": (
        code("lpsteps/selection/sleb.py"),
        (PLAN + "sleb", *REPORT),
    ),
    "calibration step": (code("lpsteps/steps/calibrate.py"), (*STATISTICS, *REPORT)),
    "calibration pass": (code("lpsteps/calibration.py"), (*STATISTICS, *REPORT)),
    "perplexity": (
        code("lpsteps/evaluation/perplexity.py"),
        ("evaluate_perplexity/", *REPORT),
    ),
    "wrapper of the harness": (
        code("lpsteps/evaluation/harness.py"),
        ("evaluate_harness/", *REPORT),
    ),
    "layer removal": (
        code("lpsteps/models/surgery.py"),
        # Least squares can take its statistics from the model as repaired so far.
        (SCORES, r"build_patch/.*least-squares", "distill/", *REPORT),
    ),
    "pass for the moments": (code("lpsteps/models/gap_moments.py"), (*MOMENTS, *REPORT)),
    "solver of the least squares": (code("lpsteps/least_squares.py"), (*MOMENTS[1:], *REPORT)),
    "repair that runs the model": (code("lpsteps/models/refit.py"), (*REFIT, *REPORT)),
    "width pruning": (code("lpsteps/width/llm_pruner.py"), (*WIDTH, *REPORT)),
    "groups of channels": (code("lpsteps/models/coupling.py"), (*WIDTH, *REPORT)),
    "setting of a width pruning": (
        configure(
            "config/methods.yaml",
            lambda c: c["width_prunings"]["narrow"]["params"].update(windows=1),
        ),
        (*WIDTH, *REPORT),
    ),
    "training": (code("lpsteps/training.py"), (*DISTILLED, *REPORT)),
    "setting of a distillation": (
        configure("config/methods.yaml", lambda c: c["distillations"]["kl"].update(clip=1.0)),
        (*DISTILLED, *REPORT),
    ),
    "setting of a distillation that no variant uses": (
        configure("config/methods.yaml", lambda c: c["distillations"]["kl-own"].update(clip=1.0)),
        NOTHING,
    ),
    "epochs enough to store the targets": (
        configure("config/methods.yaml", lambda c: c["distillations"]["kl"].update(epochs=3)),
        ("store_teacher/", *DISTILLED, *REPORT),
    ),
    "start of a training": (
        configure(
            "config/methods.yaml",
            lambda c: c["recoveries"]["linearpatch+ft"].update(start="channel-scale"),
        ),
        (*DISTILLED, *REPORT),
    ),
    "number of training windows": (
        configure(
            "config/tiny_definitions.yaml",
            lambda c: c["training_texts"]["tiny"]["fit"][0].update(windows=6),
        ),
        (*DISTILLED, *REPORT),
    ),
    "tokenising": (
        code("lpsteps/data/windows.py"),
        (
            "tokenize_corpus/",
            "extend_windows/",
            *STATISTICS,
            *MOMENTS,
            *REFIT,
            *WIDTH,
            PLAN + "sleb",
            "evaluate_perplexity/",
            *REPORT,
        ),
    ),
    "choice of layers": (
        code("lpsteps/steps/choose_layers.py"),
        (
            "choose_layers/",
            "measure_moments/",
            "measure_token_scales/",
            "build_patch/",
            "distill/",
            SCORES + ".*selection/",
            *REPORT,
        ),
    ),
    "cells of the tables": (code("lpsteps/report/table_builder.py"), REPORT),
    "page": (code("lpsteps/report/page.py"), ("render_report/",)),
    "template": (append("reports/templates/page.html.j2", "<!-- x -->\n"), ("render_report/",)),
    "style sheet": (append("reports/templates/style.css", "/* x */\n"), ("render_report/",)),
    "published value": (replace("reports/published/table02.csv", "18.45", "18.46"), REPORT),
    "caption of a table": (
        configure("reports/tables/table02.yaml", lambda c: c.update(caption="Another one.")),
        REPORT,
    ),
    "token-wise scalings": (
        code("lpsteps/token_scales.py"),
        ("measure_token_scales/", *REPORT),
    ),
    "drawing of the figures": (code("lpsteps/report/figure_drawings.py"), ("render_report/",)),
    "figure added of what is there": (
        configure(PROFILE, lambda c: c["figures"].update(figure4={"tiny": [1]})),
        REPORT,
    ),
    "table added of what is there": (
        configure(PROFILE, lambda c: c["tables"].update(table07={"tiny": []})),
        REPORT,
    ),
    "title of a benchmark": (
        replace("lpsteps/evaluation/benchmarks/copa.yaml", "title: CoPa", "title: COPA"),
        REPORT,
    ),
    "metric of a benchmark": (
        replace("lpsteps/evaluation/benchmarks/copa.yaml", "metric: acc", "metric: acc_norm"),
        ("evaluate_harness/", *REPORT),
    ),
    "title of a selection": (
        configure("config/methods.yaml", lambda c: c["selections"]["sleb"].update(title="S")),
        REPORT,
    ),
    "value that one variant uses": (
        configure(
            "config/methods.yaml",
            lambda c: c["recoveries"]["linearpatch-per-layer"]["params"].update(epsilon=1e-6),
        ),
        (r"build_patch/.*linearpatch-per-layer", SCORES + r".*linearpatch-per-layer", *REPORT),
    ),
    "two values swapped": (
        configure(
            "config/methods.yaml",
            lambda c: c["selections"]["sleb"]["params"].update(windows=3, length=2),
        ),
        (PLAN + "sleb", *REPORT),
    ),
    "local data file": (change_data, ("fetch_data/copa", "evaluate_harness/", *REPORT)),
    "number of documents": (
        configure(PROFILE, lambda c: c["suites"]["qa"]["benchmarks"].update(arc_easy=7)),
        ("evaluate_harness/", *REPORT),
    ),
    "limits of two benchmarks swapped": (
        configure(
            PROFILE,
            lambda c: c["suites"]["qa"]["benchmarks"].update(arc_easy=None, copa=6),
        ),
        ("evaluate_harness/", *REPORT),
    ),
    "number of calibration windows": (
        configure(
            "config/tiny_definitions.yaml",
            lambda c: [entry.update(windows=2) for entry in c["calibrations"].values()],
        ),
        # What runs the model itself reads the same windows.
        ("extend_windows/", *STATISTICS, *MOMENTS, *REFIT, *WIDTH, PLAN + "sleb", *REPORT),
    ),
    "number of windows of the model's own": (
        configure(
            "config/tiny_definitions.yaml",
            lambda c: c["calibrations"]["wikipedia+own"].update(generated=3),
        ),
        ("extend_windows/", r"wikipedia\+own", *REPORT),
    ),
    "another pruning level": (
        configure(PROFILE, lambda c: c["tables"]["table08"].update(tiny=[2, 1, 3])),
        (
            r"(rank_layers|choose_layers|build_patch|evaluate_\w+)/tiny[./].*sleb",
            r"choose_layers/tiny\..*n3",
            *REPORT,
        ),
    ),
    "model added": (
        in_turn(
            configure(
                "config/tiny_definitions.yaml",
                lambda c: c["models"].update({"tiny-c": c["models"]["tiny"]}),
            ),
            configure(PROFILE, lambda c: c["tables"]["table08"].update({"tiny-c": [1]})),
        ),
        ("tiny-c", *REPORT),
    ),
    "model removed": (
        configure(PROFILE, lambda c: c["tables"]["table08"].pop("tiny-b")),
        REPORT,
    ),
    "variant added": (
        add_row(
            "table02",
            {"id": "sl+d", "label": "+d", "selection": "sleb", "recovery": "channel-scale"},
        ),
        (r"(build_patch|evaluate_perplexity)/tiny.*sleb.*channel-scale", *REPORT),
    ),
    "method added in one file": (
        add_method,
        (r"(build_patch|evaluate_perplexity)/tiny.*llm-streamline.*half", *REPORT),
    ),
    "variant removed": (drop_row("table06", "channel-scale"), REPORT),
    "benchmark added": (
        configure(PROFILE, lambda c: c["suites"]["perplexity"]["benchmarks"].update(stories=1)),
        (
            "fetch_data/text-stories",
            "tokenize_corpus/tiny.stories.test",
            "evaluate_perplexity/",
            *REPORT,
        ),
    ),
    "table added that shows what is there": (add_table, REPORT),
    "table removed": (configure(PROFILE, lambda c: c["tables"].pop("table08")), REPORT),
    "lock file": (append("requirements.lock", "another==1.0\n"), ("",)),
    "function renamed that two steps use": (
        rename_function,
        (
            "choose_layers/",
            r"measure_(moments|token_scales)/",
            "build_patch/",
            "distill/",
            SCORES,
            *REPORT,
        ),
    ),
    "writer of all files": (code("lpsteps/artifacts.py"), ("",)),
}


# One dry run tells of all of them: none undoes or hides another. A fresh clone would hide the touch.
HARMLESS = [
    row
    for row, (_, patterns) in MATRIX.items()
    if patterns == NOTHING and row != "fresh clone with copied results"
]


def test_edits_without_effect_plan_nothing(copy: Path):
    assert len(HARMLESS) > 8
    for row in HARMLESS:
        MATRIX[row][0](copy)
    run = snakemake(copy, "-n", "reports/tables.html")
    assert run.returncode == 0 and "Nothing to be done" in run.stdout, run.stdout


@pytest.mark.parametrize("row", [row for row in MATRIX if row not in HARMLESS])
def test_edit_plans_exactly_what_it_invalidates(
    copy: Path, every_job: set[str], warm_python: Path, row: str
):
    edit, patterns = MATRIX[row]
    edit(copy)
    found = planned(copy, warm_python)
    known = every_job | found
    for pattern in patterns:
        assert any(re.search(pattern, job) for job in known), f"{pattern}: matches no job"
    expected = {job for job in known if any(re.search(pattern, job) for pattern in patterns)}
    assert found == expected, (
        f"not expected: {sorted(found - expected)}; not planned: {sorted(expected - found)}"
    )


def test_reason_names_what_changed(copy: Path):
    code("lpsteps/recovery/channel_scale.py")(copy)
    run = snakemake(copy, "-n", "reports/tables.html")
    assert "lpsteps.recovery.channel_scale" in run.stdout


def test_equal_upstream_file_does_not_cascade_when_built_first(copy: Path, warm_python: Path):
    """Deterministic payloads: the same bytes again leave everything after them alone."""
    code("lpsteps/steps/calibrate.py")(copy)
    places = (
        "tiny/calibration/wikipedia",
        "tiny/calibration/wikipedia+own",
        "tiny-b/calibration/wikipedia",
    )
    targets = (f"results/{place}/stats.parquet" for place in places)
    run = snakemake(copy, *targets, python=warm_python)
    assert run.returncode == 0, run.stdout
    assert planned(copy, warm_python) == set()


def test_added_method_has_its_row_in_the_table(copy: Path):
    add_method(copy)
    run = snakemake(copy, "reports/tables.html")
    assert run.returncode == 0, run.stdout
    cells = {c["id"]: c for c in json.loads((copy / "reports/tables.json").read_text())["cells"]}
    cell = cells["table02/tiny/n2/sl+half/novels"]
    assert cell["status"] == "measured"
    assert cell["value"] != cells["table02/tiny/n2/llm-streamline/novels"]["value"]
