"""Plans: the gaps that follow from a set of layers, and what a plan file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.artifacts import read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.plan import Plan, read_plan, write_plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    n_layers = draw(st.integers(1, 40))
    order = draw(st.permutations(range(n_layers)))
    return Plan.removing(n_layers, tuple(order[: draw(st.integers(0, n_layers - 1))]))


@given(plans())
def test_gaps_cover_exactly_the_removed_layers_and_do_not_touch(plan: Plan) -> None:
    covered = [layer for start, end in plan.gaps for layer in range(start, end)]
    assert covered == list(plan.layers)
    assert all(start < end for start, end in plan.gaps)
    assert all(end < start for (_, end), (start, _) in zip(plan.gaps, plan.gaps[1:], strict=False))


@given(plans())
def test_layers_are_the_order_sorted(plan: Plan) -> None:
    assert plan.layers == tuple(sorted(plan.order))
    assert Plan(plan.n_layers, plan.layers, plan.order) == plan


def test_gaps_of_a_worked_example() -> None:
    assert Plan.removing(10, (9, 3, 0, 4, 7, 5)).gaps == ((0, 1), (3, 6), (7, 8), (9, 10))


def test_dense_removes_nothing() -> None:
    assert Plan.dense(30) == Plan(30, (), ())
    assert Plan.dense(30).gaps == ()


@pytest.mark.parametrize(
    ("n_layers", "layers", "order", "complaint"),
    [
        (4, (4,), (4,), "layers run from 0 to 3"),
        (4, (-1,), (-1,), "layers run from 0 to 3"),
        (4, (1, 1), (1, 1), "only once"),
        (4, (1, 2), (2, 3), "sorted ascending"),
        (4, (2, 1), (2, 1), "sorted ascending"),
        (2, (0, 1), (0, 1), "at least one layer must survive"),
        (0, (), (), "at least one decoder layer"),
    ],
)
def test_impossible_plans_are_refused(
    n_layers: int, layers: tuple[int, ...], order: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(LpstepsError, match=complaint):
        Plan(n_layers, layers, order)


def test_plan_file_holds_the_documented_keys(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, Plan.removing(30, (14, 12, 13, 20)), model="tiny", selection="sleb")
    assert read_json(path) == {
        "schema": 1,
        "model": "tiny",
        "selection": "sleb",
        "n_layers": 30,
        "n": 4,
        "layers": [12, 13, 14, 20],
        "order": [14, 12, 13, 20],
        "gaps": [[12, 15], [20, 21]],
    }


@given(plans())
def test_a_plan_survives_its_file(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    write_plan(path, plan, model="m", selection="s")
    assert read_plan(path) == plan


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n": 3}, "n: 3"),
        ({"gaps": [[1, 2], [2, 3]]}, "gaps"),
        ({"layers": [1, 3]}, "sorted ascending"),
        ({"layers": ["1", "2"]}, "layers"),
        ({"schema": 2}, "schema: 2"),
        ({"colour": "red"}, "colour: unknown key"),
    ],
)
def test_a_damaged_plan_file_is_named_in_one_line(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, Plan.removing(6, (1, 2)), model="m", selection="s")
    write_json(path, read_json(path) | change)
    with pytest.raises(LpstepsError, match=complaint) as error:
        read_plan(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, {"schema": 1})
    with pytest.raises(LpstepsError, match="model: required"):
        read_plan(path)
