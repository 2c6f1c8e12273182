"""Write the graph of the rules into docs/architecture.md, as Snakemake sees it.

Usage: python -m lpsteps.rule_graph docs/architecture.md config/config.yaml config/full.yaml
replaces what stands between the marks of each profile with a Mermaid diagram, which GitHub draws.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

from lpsteps.errors import LpstepsError

Edge = tuple[str, str]

_NODE = re.compile(r'^\s*(\d+)\[label = "(\w+)"', re.MULTILINE)
_EDGE = re.compile(r"^\s*(\d+) -> (\d+)\s*$", re.MULTILINE)


def rule_graph(profile: str) -> set[Edge]:
    """Return which rule reads what which other one made, in a run from nothing.

    Args:
        profile: The profile's file, relative to the working directory, which is the project's.

    Returns:
        Pairs of the rule that makes a file and the rule that reads it.

    Raises:
        LpstepsError: Snakemake refuses the profile; the message is its own.
    """
    command = ["snakemake", "--cores", "1", "--rulegraph", "dot", "--configfile", profile]
    run = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise LpstepsError(f"{profile}: no rule graph ({run.stderr.strip().splitlines()[-1]})")
    return edges_of_dot(run.stdout)


def edges_of_dot(text: str) -> set[Edge]:
    """Return the edges of a graph in the form that ``snakemake --rulegraph dot`` prints.

    The rule `all`, which makes nothing, is left out.
    """
    names = dict(_NODE.findall(text))
    edges = ((names[source], names[target]) for source, target in _EDGE.findall(text))
    return {edge for edge in edges if "all" not in edge}


def without_shortcuts(edges: Set[Edge]) -> set[Edge]:
    """Leave out every edge whose ends a longer path joins, too (transitive reduction).

    Args:
        edges: A graph without cycles.
    """
    following: dict[str, set[str]] = {}
    for source, target in edges:
        following.setdefault(source, set()).add(target)

    def reachable(start: str) -> set[str]:
        """What lies behind a rule, in any number of steps."""
        direct = following.get(start, set())
        return direct.union(*map(reachable, direct))

    return {
        (source, target)
        for source, target in edges
        if not any(target in reachable(other) for other in following[source] - {target})
    }


def mermaid(edges: Set[Edge]) -> str:
    """Return a Mermaid diagram, from downloads at the top to the page at the bottom."""
    lines = [f"    {source} --> {target}" for source, target in sorted(edges)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def with_graph(text: str, profile: str, edges: Set[Edge]) -> str:
    """Return a page with the diagram of a profile between its marks.

    Args:
        text: The page.
        profile: The profile's file, as the marks name it.
        edges: All edges of its graph.

    Raises:
        LpstepsError: The page has no such marks.
    """
    begin, end = f"<!-- rules of {profile} -->\n", f"\n<!-- end of {profile} -->"
    before, first, rest = text.partition(begin)
    _, second, after = rest.partition(end)
    if not first or not second:
        raise LpstepsError(f"no place for the rules of {profile}: add the lines {begin}and{end}")
    return "".join([before, begin, mermaid(without_shortcuts(edges)), end, after])


def main(page: Path, profiles: list[str]) -> None:
    """Bring the diagrams of a page up to date."""
    text = page.read_text(encoding="utf-8")
    for profile in profiles:
        text = with_graph(text, profile, rule_graph(profile))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
