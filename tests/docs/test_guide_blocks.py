"""What the guides show, as far as it can be checked without a run: files, entries, plans, methods."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guide import Block, blocks, commands, matches, merged, type_command, write_block
from project import CHECKOUT, copy_checkout

from lpsteps.plan import Plan
from lpsteps.recovery.base import RecoveryContext
from lpsteps.selection.base import SelectionContext
from lpsteps.statistics import Statistics

GUIDES = ["README.md", *(f"docs/{path.name}" for path in sorted(CHECKOUT.glob("docs/*.md")))]
ADDED_TO_THE_DEFAULT = ["docs/add-a-method.md", "docs/add-a-benchmark.md", "docs/add-a-table.md"]


@pytest.mark.parametrize("page", GUIDES)
def test_blocks_say_what_they_are_for(page: str):
    for block in blocks(page):
        assert set(block.attributes) <= {"file", "into", "exit"}, f"{page}, line {block.line}"
        if block.language == "console":
            assert commands(block), f"{page}, line {block.line}"


def test_what_commands_print_is_compared_line_by_line():
    printed = "first\nsecond 12 s\nthird\n"
    assert matches("first\nsecond ... s\nthird\n", printed)
    assert matches("...\nthird\n", printed) and matches("first\n...\n", printed)
    assert matches("...\nfirst\n...\nthird\n...\n", printed)
    for wrong in (
        "first\n",
        "first\n...\nsecond\n",
        "second ... s\n...\n",
        "first...\nthird\n",
        "",
    ):
        assert not matches(wrong, printed), wrong


def test_entries_join_what_is_there():
    content = {"rows": [1], "suites": {"qa": {"a": 1}}, "other": 0}
    addition = {"rows": [2], "suites": {"qa": {"b": None}, "more": {}}}
    assert merged(content, addition) == {
        "rows": [1, 2],
        "suites": {"qa": {"a": 1, "b": None}, "more": {}},
        "other": 0,
    }


def test_all_additions_plan_together_on_the_default_profile(tmp_path: Path):
    """The default profile with every entry of the guides: its new scores are planned, each once."""
    project = tmp_path / "project"
    copy_checkout(project)
    (project / "data").mkdir()
    (project / "data/my_text.txt").write_text("A line.\n")
    for page in ADDED_TO_THE_DEFAULT:
        for block in blocks(page):
            write_block(block, project, {})
    (plan,) = commands(Block("console", {}, "$ snakemake -n --cores 1 -p reports/tables.html\n", 0))
    run = type_command(plan, project)
    assert run.returncode == 0, run.stdout
    patch = "selection/llm-streamline/n5/median-scale"
    for log in (
        "rank_layers/smollm2-135m.wikipedia.worst-case",
        "choose_layers/smollm2-135m.wikipedia.by-hand.n3",
        "choose_layers/smollm2-135m.wikipedia.by-hand.n5",
        f"evaluate_perplexity/smollm2-135m/calibration/wikipedia/{patch}/perplexity",
        "evaluate_harness/smollm2-135m/dense/science",
        "evaluate_perplexity/smollm2-135m/calibration/wikipedia/selection/shortgpt/n2/linearpatch/perplexity",
    ):
        assert run.stdout.count(f"--log logs/{log}.log") == 1, log


def module_of(page: str, file: str) -> types.ModuleType:
    """The module that a guide shows, without putting its file anywhere."""
    (source,) = (block.text for block in blocks(page) if block.attributes.get("file") == file)
    module = types.ModuleType(Path(file).stem)
    sys.modules[module.__name__] = module  # pydantic looks for the names of annotations there
    exec(compile(source, file, "exec"), module.__dict__)
    return module


@pytest.fixture
def statistics() -> Statistics:
    generator = np.random.default_rng(0)
    samples, boundaries, channels = 3, 7, 12
    return Statistics(
        basis_name="identity",
        model="tiny",
        tokens=np.full(samples, 8, dtype=np.int32),
        means={"identity": generator.uniform(0.5, 3.0, (samples, boundaries, channels))},
        pairs=generator.uniform(-1, 1, (samples, boundaries, boundaries)),
    )


def test_the_repair_of_the_guide_takes_the_median_of_the_ratios(statistics: Statistics):
    method = module_of("docs/add-a-method.md", "lpsteps/recovery/median_scale.py")
    context = RecoveryContext(Plan.removing(6, [1, 2, 4]), 12, statistics)
    patches = method.build(context, method.Params())
    means = statistics.means["identity"]
    for gap, (start, end) in zip(patches.gaps, [(1, 3), (4, 5)], strict=True):
        ratios = [
            sum(means[s, end, c] / means[s, start, c] for s in range(3)) / 3 for c in range(12)
        ]
        ordered = sorted(ratios)
        (operation,) = gap.operations
        assert (gap.start, gap.end, operation.kind) == (start, end, "scalar")
        np.testing.assert_allclose(operation.weight, [(ordered[5] + ordered[6]) / 2], rtol=1e-12)


def test_the_selection_of_the_guide_takes_the_worst_sample(statistics: Statistics):
    method = module_of("docs/add-a-method.md", "lpsteps/selection/worst_case_influence.py")
    context: Any = SelectionContext(6, (2,), statistics=statistics)
    ranking = method.rank(context, method.Params())
    worst = [1 - min(statistics.pairs[s, layer, layer + 1] for s in range(3)) for layer in range(6)]
    assert [candidate.score for candidate in ranking.candidates] == pytest.approx(worst)
    first = min(ranking.candidates, key=lambda candidate: candidate.rank)
    assert first.layers == (worst.index(min(worst)),)
