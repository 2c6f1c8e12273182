"""Each guide is followed to its end in a copy of a finished project; what it shows is what comes out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from guide import blocks, follow
from project import sentences


def bring_a_model(project: Path) -> None:
    """The folder of a model that the project does not know."""
    shutil.copytree(project / "model", project / "my-model")


def bring_data(project: Path) -> None:
    """OpenBookQA's columns, and a text file."""
    generator = np.random.default_rng(1)
    questions = sentences(generator, 12)
    choices = [{"text": sentences(generator, 4), "label": ["A", "B", "C", "D"]} for _ in questions]
    columns = {
        "id": [f"q{number}" for number in range(12)],
        "question_stem": questions,
        "choices": choices,
        "answerKey": list(generator.choice(["A", "B", "C", "D"], size=12)),
    }
    pq.write_table(pa.table(columns), project / "data/openbookqa_validation.parquet")
    (project / "data/my_text.txt").write_text("\n".join(sentences(generator, 200)) + "\n")


def bring_nothing(project: Path) -> None:
    """The finished project is enough."""


GUIDES: dict[str, Callable[[Path], None]] = {
    "README.md": bring_a_model,
    "docs/add-a-benchmark.md": bring_data,
    "docs/add-a-method.md": bring_nothing,
    "docs/add-a-model.md": bring_a_model,
    "docs/add-a-table.md": bring_nothing,
    "docs/invalidation.md": bring_nothing,
    "docs/provenance.md": bring_nothing,
    "docs/status.md": bring_nothing,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_the_guide_is_followed_to_its_end(page: str, project: Path):
    GUIDES[page](project)
    assert follow(blocks(page), project, page)
