"""Chains of files as trees: nothing is lost, nothing is made up, everything stands once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpsteps.report.chains import lineage_chains


def artifact(
    rule: str | None = None, inputs: tuple[str, ...] = (), size: int = 10, **spec: Any
) -> dict[str, Any]:
    step = {} if rule is None else {"rule": rule, "spec": spec, "code": "0" * 16}
    return {"sha256": "f" * 64, "bytes": size, "inputs": sorted(inputs), **step}


# fmt: off
RUN = {
    "archive/manifest.json": artifact("fetch", package="zoo", source={"revision": "r1"}, count=3, members=["*"]),
    "archive/weights": artifact("fetch", size=10**6, package="zoo", source={"revision": "r1"}, count=3, members=["*"]),
    "model/manifest.json": artifact("convert", ("archive/manifest.json", "archive/weights")),
    "model/weights": artifact("convert", ("archive/manifest.json", "archive/weights"), 1_500_000),
    "data/a/test": artifact("extract", ("archive/manifest.json",), dataset="a"),
    "data/b/test": artifact("extract", ("archive/manifest.json",), dataset="b"),
    "data/c/test": artifact("extract", ("archive/manifest.json",), dataset="c"),
    "plan": artifact("choose", ("model/manifest.json", "model/weights", "data/c/test"), n=2),
    "score/a": artifact("score", ("plan", "model/weights", "data/a/test", "data/b/test", "own.txt")),
    "score/b": artifact("score", ("plan", "model/weights", "data/a/test", "data/b/test", "own.txt")),
    "own.txt": artifact(),
    "unrelated": artifact("fetch", package="other"),
}
# fmt: on


def paths_of(data: dict[str, Any], root: str, row: dict[str, Any]) -> list[str]:
    if "node" not in row:
        return [root]
    return [data["files"][number]["path"] for number in data["nodes"][row["node"]]["files"]]


def chain_of(data: dict[str, Any], root: str) -> dict[str, Any]:
    [file] = [file for file in data["files"] if file["path"] == root]
    chain: dict[str, Any] = data["chains"][file["chain"]]
    return chain


def test_every_step_stands_once_under_its_last_reader() -> None:
    data = lineage_chains(RUN, ["score/a"], [])
    rows = chain_of(data, "score/a")["rows"]
    tree = [(paths_of(data, "score/a", row), row.get("under"), row.get("also")) for row in rows]
    model = ["model/manifest.json", "model/weights"]
    archive = ["archive/manifest.json", "archive/weights"]
    assert tree == [
        (["score/a"], None, [5]),
        (["own.txt"], 0, None),
        (["data/a/test", "data/b/test"], 0, [6]),
        (["plan"], 0, None),
        (["data/c/test"], 3, [6]),
        (model, 3, None),
        (archive, 5, None),
    ]


def test_what_a_step_says_about_itself() -> None:
    data = lineage_chains(RUN, ["score/a"], [])
    nodes = {tuple(paths_of(data, "", {"node": n})): node for n, node in enumerate(data["nodes"])}
    model = nodes["model/manifest.json", "model/weights"]
    assert (model["rule"], model["folder"], model["size"]) == ("convert", "model/", "1.5\u202fMB")
    assert "pinned" not in model
    assert nodes["data/a/test", "data/b/test"]["folder"] == "data/"
    archive = nodes["archive/manifest.json", "archive/weights"]
    assert archive["pinned"] == [{"package": "zoo", "source.revision": "r1"}]
    assert "rule" not in nodes[("own.txt",)] and "pinned" not in nodes[("own.txt",)]


def test_what_chains_share_is_stored_once_and_nothing_else_is_stored() -> None:
    data = lineage_chains(RUN, ["score/a", "score/b", "plan", "gone"], ["plan"])
    assert {file["path"] for file in data["files"]} == RUN.keys() - {"unrelated"}
    assert len(data["files"]) == len(RUN) - 1
    assert chain_of(data, "score/a") is chain_of(data, "score/b")
    assert chain_of(data, "plan")["settings"] == {"n": 2}
    assert "settings" not in chain_of(data, "score/a")
    assert len({str(node) for node in data["nodes"]}) == len(data["nodes"])


@pytest.mark.parametrize(
    ("sources", "folder"),
    [(("data/ab", "data/ac"), "data/"), (("/data/a", "own.txt"), ""), (("a/b", "a/b/c"), "a/")],
)
def test_folders_end_where_the_paths_part(sources: tuple[str, ...], folder: str) -> None:
    run = {"score": artifact("score", sources), **{path: artifact() for path in sources}}
    [node] = lineage_chains(run, ["score"], [])["nodes"]
    assert node["folder"] == folder


@st.composite
def runs(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    run: dict[str, dict[str, Any]] = {}
    for number in range(draw(st.integers(1, 12))):
        inputs = draw(st.sets(st.sampled_from(sorted(run)))) if run else set()
        rule = draw(st.sampled_from(["first", "second", "third"]))
        run[f"f{number:02}"] = artifact(rule, tuple(inputs), seed=draw(st.integers(0, 1)))
    return run


@given(runs())
def test_a_chain_holds_exactly_what_was_read(run: dict[str, dict[str, Any]]) -> None:
    root = max(run)
    data = lineage_chains(run, [root], [])
    rows = chain_of(data, root)["rows"]
    row_of = {path: number for number, row in enumerate(rows) for path in paths_of(data, root, row)}
    assert sum(len(paths_of(data, root, row)) for row in rows) == len(row_of)

    reached = {root}
    for path in sorted(run, reverse=True):  # a file reads from earlier files alone
        if path in reached:
            reached |= set(run[path]["inputs"])
    assert row_of.keys() == reached

    read = {(row_of[path], row_of[source]) for path in reached for source in run[path]["inputs"]}
    shown = [(row["under"], number) for number, row in enumerate(rows) if "under" in row]
    shown += [(number, other) for number, row in enumerate(rows) for other in row.get("also", [])]
    assert len(shown) == len(set(shown)) and set(shown) == read
    assert all(row["under"] < number for number, row in enumerate(rows) if number)


@given(runs())
def test_the_order_of_the_artifacts_does_not_matter(run: dict[str, dict[str, Any]]) -> None:
    turned = dict(reversed(run.items()))
    roots = sorted(run)
    assert lineage_chains(run, roots, roots) == lineage_chains(turned, roots[::-1], roots)
