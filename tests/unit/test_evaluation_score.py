"""A score file contradicts itself nowhere: one that does is not written, and not read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lpsteps.evaluation.score import Score

SCORE = {
    "model": "m",
    "variant": "v",
    "benchmark": "copa",
    "protocol": "harness",
    "metric": "acc",
    "value": 50.0,
    "unit": "percent",
    "stderr": None,
    "n": 2,
    "limited": True,
    "total": 100,
    "settings": {},
    "samples": {"ids": [0, 1], "values": [1, 0]},
}


def test_a_score_that_agrees_with_itself_is_taken() -> None:
    assert Score.model_validate(SCORE).n == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 3}, "2 ids and 2 values: n is 3"),
        ({"samples": {"ids": [0], "values": [1, 0]}}, "1 ids and 2 values: n is 2"),
        ({"total": 1}, "n: 2: more than `total`, 1"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Score.model_validate(SCORE | changes)
