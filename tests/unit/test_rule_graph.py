"""The drawing of the rules: read from Snakemake's output, reduced, put between marks."""

from __future__ import annotations

import pytest

from lpsteps.errors import LpstepsError
from lpsteps.rule_graph import edges_of_dot, mermaid, with_graph, without_shortcuts

DOT = """digraph snakemake_dag {
    graph[bgcolor=white, margin=0];
	0[label = "all", color = "0.5 0.6 0.8", style="rounded"];
	1[label = "render", color = "0.1 0.6 0.8", style="rounded,dashed"];
	12[label = "fetch", color = "0.2 0.6 0.8", style="rounded"];
	1 -> 0
	12 -> 1
}
"""


def test_edges_are_those_between_named_rules():
    assert edges_of_dot(DOT) == {("fetch", "render")}


def test_an_edge_stays_unless_a_longer_path_joins_its_ends():
    chain = {("a", "b"), ("b", "c"), ("c", "d")}
    assert without_shortcuts(chain | {("a", "c"), ("a", "d"), ("b", "d")}) == chain
    diamond = {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert without_shortcuts(diamond) == diamond


def test_the_diagram_replaces_what_is_between_the_marks():
    page = "Before\n<!-- rules of x.yaml -->\nold\n<!-- end of x.yaml -->\nAfter\n"
    edges = {("b", "c"), ("a", "b")}
    drawn = with_graph(page, "x.yaml", edges)
    assert drawn == (
        "Before\n<!-- rules of x.yaml -->\n```mermaid\nflowchart TD\n    a --> b\n    b --> c\n```\n"
        "<!-- end of x.yaml -->\nAfter\n"
    )
    assert with_graph(drawn, "x.yaml", edges) == drawn
    assert mermaid(edges) in drawn


def test_a_page_without_marks_is_refused():
    with pytest.raises(LpstepsError, match=r"no place for the rules of x\.yaml"):
        with_graph("Nothing", "x.yaml", set())
