"""Training curves: read from Parquet, made small, and drawn at the right place."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.artifacts import write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.report.curve_figures import CurvesView, curves_view
from lpsteps.report.curves import (
    MOST_POINTS,
    TrainingCurve,
    evenly,
    moving_mean,
    read_curve,
    thinned_curve,
)
from lpsteps.report.drawing import WIDTH

STEPS, PER_PASS = 6, 3
COLUMNS: dict[str, list[Any]] = {
    "epoch": [0, 1, 1, 1, 2, 2, 2],
    "tokens": [0, 40, 80, 100, 140, 180, 200],
    "fit_loss": [None, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5],
    "heldout_kl": [4.0, None, None, 1.5, None, None, 1.75],
}


def written(folder: Path, **changes: list[Any]) -> Path:
    path = folder / "training.parquet"
    write_parquet(path, pa.table(COLUMNS | changes))
    return path


def test_a_curve_is_read_by_tokens(tmp_path: Path) -> None:
    curve = read_curve(written(tmp_path))
    assert curve.fit == ((40, 3.0), (80, 2.5), (100, 2.0), (140, 1.5), (180, 1.0), (200, 0.5))
    assert curve.heldout == ((0, 4.0), (100, 1.5), (200, 1.75))
    assert (curve.tokens, curve.first_pass, curve.kept) == (200, 100, (100, 1.5))
    one_pass = read_curve(written(tmp_path, epoch=[0, 1, 1, 1, 1, 1, 1]))
    assert (one_pass.tokens, one_pass.first_pass) == (200, 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": [0, 80, 40, 100, 140, 180, 200]},
        {"heldout_kl": [None] * 7},
        {name: [] for name in COLUMNS},
    ],
)
def test_what_is_no_curve_is_refused(tmp_path: Path, changes: dict[str, list[Any]]) -> None:
    typed = {name: pa.array(values, pa.float64()) for name, values in changes.items()}
    with pytest.raises(LpstepsError, match=r"training\.parquet: holds no training curve; delete"):
        read_curve(written(tmp_path, **typed))


def test_a_curve_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.parquet"
    write_parquet(path, pa.table({name: COLUMNS[name] for name in ("epoch", "tokens", "fit_loss")}))
    with pytest.raises(LpstepsError, match="heldout_kl"):
        read_curve(path)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(min_value=1, max_value=50)
)
def test_the_moving_mean_is_that_of_what_came_before(values: list[float], window: int) -> None:
    expected = [
        np.mean([value for place, value in enumerate(values) if end - window < place <= end])
        for end in range(len(values))
    ]
    assert moving_mean(values, window) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.integers(min_value=0, max_value=20_000), st.integers(min_value=2, max_value=MOST_POINTS))
def test_thinning_keeps_both_ends_and_even_steps(count: int, most: int) -> None:
    kept = evenly(count, most)
    assert len(kept) == min(count, most) == len(set(kept))
    if count > 1:
        assert (kept[0], kept[-1]) == (0, count - 1)
        gaps = {after - before for before, after in itertools.pairwise(kept)}
        assert max(gaps) - min(gaps) <= 1


def long_curve(steps: int) -> TrainingCurve:
    losses = [2 + math.sin(step) for step in range(steps)]
    fit = tuple((10 * (step + 1), loss) for step, loss in enumerate(losses))
    heldout = tuple((10 * step, 1 + abs(step - 303) / steps) for step in range(steps))
    return TrainingCurve(fit, heldout, 10 * steps, 10 * steps)


def test_a_long_curve_is_smoothed_first_and_thinned_then() -> None:
    steps = 1000
    curve = long_curve(steps)
    small = thinned_curve(curve)
    assert small["window"] == 50
    assert len(small["fit"]) == MOST_POINTS
    assert small["fit"][0][:2] == list(curve.fit[0]) and small["fit"][-1][:2] == list(curve.fit[-1])
    for tokens, loss, mean in small["fit"]:
        step = tokens // 10
        window = [value for _, value in curve.fit[max(0, step - 50) : step]]
        assert loss == window[-1] and mean == pytest.approx(sum(window) / len(window))
    # The kept state is not among the evenly spread ones, and is there all the same.
    assert 303 not in evenly(steps) and small["kept"] == [3030, 1.0]
    assert small["kept"] in small["heldout"] and len(small["heldout"]) == MOST_POINTS + 1
    assert small["heldout"] == sorted(small["heldout"])
    assert small["before"] == small["heldout"][0] and small["after"] == small["heldout"][-1]


def line(style: int, **changes: Any) -> dict[str, Any]:
    fit = tuple(zip(COLUMNS["tokens"], COLUMNS["fit_loss"], strict=True))[1:]
    heldout = ((0, 4.0), (100, 1.0), (200, 2.0))
    return {
        "row": f"row{style}",
        "label": f"Row <{style}>",
        "style": style,
        "objective": "logits_kl",
        "tokens": 200,
        "source": {"path": f"results/{style}/training.parquet", "sha256": "0" * 64},
        **thinned_curve(TrainingCurve(fit, heldout, 200, 100)),
        **changes,
    }


def view(*lines: dict[str, Any]) -> CurvesView:
    return curves_view("t", {"model": "m", "n": 5, "lines": list(lines)}, 30)


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in e.attrib.get("class", "").split()]


def corners(path: ET.Element) -> list[tuple[float, float]]:
    pairs = re.findall(r"([-\d.]+) ([-\d.]+)", path.attrib["d"])
    return [(float(x), float(y)) for x, y in pairs]


def test_values_stand_at_their_place() -> None:
    fit, heldout = (ET.fromstring(drawing) for drawing in view(line(1)).drawings)
    labels = [tick for tick in by_class(heldout, "tick") if tick.tag == "text"]
    ys = {
        float(tick.text or ""): float(tick.attrib["y"]) - 4
        for tick in labels
        if tick.attrib["text-anchor"] == "end"
    }
    xs = {
        float(tick.text or ""): float(tick.attrib["x"])
        for tick in labels
        if tick.attrib["text-anchor"] == "middle"
    }
    assert {1, 2} <= ys.keys() and {0, 100, 200} <= xs.keys()
    [path] = by_class(heldout, "path")
    places = corners(path)
    assert [x for x, _ in places] == pytest.approx([xs[0], xs[100], xs[200]], abs=0.06)
    octave = ys[1] - ys[2]
    assert [y for _, y in places] == pytest.approx([ys[2] - octave, ys[1], ys[2]], abs=0.2)
    [raw], [mean] = by_class(fit, "raw"), by_class(fit, "path")
    assert corners(raw) == corners(mean)  # of six steps, the mean is over one
    assert len(corners(raw)) == STEPS
    for root in (fit, heldout):
        for place in (pair for e in by_class(root, "path") for pair in corners(e)):
            assert 0 <= place[0] <= WIDTH and 0 <= place[1] <= 270


def test_the_kept_state_is_the_filled_mark() -> None:
    heldout = ET.fromstring(view(line(1)).drawings[1])
    marks = {
        group[0].text: group[1].attrib["class"]
        for group in heldout.iter("g")
        if group[0].tag == "title"
    }
    assert marks == {
        "Row <1>, after 0 tokens: 4.000": "mark passed",
        "Row <1>, after 100 tokens: 1.000, kept": "mark",
        "Row <1>, after 200 tokens: 2.000": "mark passed",
    }


def test_pictures_are_described_and_lines_look_different() -> None:
    shown = view(line(1), line(2))
    names = set()
    for drawing in shown.drawings:
        root = ET.fromstring(drawing)
        title, description = root[0], root[1]
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
        names.add(title.attrib["id"])
        assert all(f"Row <{style}>" in (description.text or "") for style in (1, 2))
        dashes = [e.attrib["stroke-dasharray"] for e in by_class(root, "path")]
        assert len(dashes) == len(set(dashes)) == 2
        assert [by_class(root, f"series-{style}") != [] for style in (0, 1, 2)] == [
            False,
            True,
            True,
        ]
    assert names == {"curves-t-m-n5-fit-title", "curves-t-m-n5-heldout-title"}
    assert "1.000 after 100 tokens" in shown.drawings[1]
    assert shown.heading == "Training with 5 of 30 layers removed"
    assert [label for _, label in shown.legend] == ["Row <1>", "Row <2>"]
    label, numbers, source = shown.rows[1]
    assert (label, source) == ("Row <2>", "results/2/training.parquet")
    assert numbers == ("200", "4.000", "1.000", "100", "2.000")
    assert len(shown.heads) == len(numbers) + 1
    assert "last 5 % of all steps" in shown.caption


def test_losses_of_hidden_states_stand_beside_no_divergence() -> None:
    mixed = view(line(1), line(2, objective="feature_mse"))
    fit, heldout = (ET.fromstring(drawing) for drawing in mixed.drawings)
    assert by_class(fit, "series-1") and not by_class(fit, "series-2")
    assert by_class(heldout, "series-2")
    assert "without a fit curve: Row <2>." in mixed.caption
    alone = view(line(1, objective="feature_mse"))
    assert len(alone.drawings) == 1 and "Fit loss" not in alone.caption


def test_a_divergence_of_zero_has_a_linear_axis() -> None:
    zero = [[0, 1.0], [100, 0.0]]
    drawing = view(line(1, heldout=zero, kept=zero[1])).drawings[1]
    assert "log scale" not in drawing and "nats, lower is better" in drawing
    same = [[0, 1.0], [100, 1.0]]
    assert "nan" not in view(line(1, heldout=same, kept=same[0])).drawings[1]


@pytest.mark.parametrize(
    ("end", "unit"),
    [(900, "Read, tokens"), (65_536, "Read, thousand tokens"), (10_240_000, "million tokens")],
)
def test_the_axis_of_tokens_has_a_fitting_unit(end: int, unit: str) -> None:
    drawing = view(line(1, tokens=end)).drawings[0]
    assert unit in drawing
    ticks = [
        float(tick.text or "")
        for tick in by_class(ET.fromstring(drawing), "tick")
        if tick.attrib.get("text-anchor") == "middle"
    ]
    assert 3 <= len(ticks) <= 8 and max(ticks) < 1000
