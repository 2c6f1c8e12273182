"""Chains: the files behind a number, arranged as a tree of steps that a page can show.

In a chain every step stands once, below the last step that reads from it; its other readers refer
to it. Steps of one rule that the same steps read from, such as the downloads of several data sets,
stand together. What chains have in common is stored once.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from lpsteps.artifacts import canonical_json
from lpsteps.report.formats import format_bytes
from lpsteps.report.numbering import Numbered

Artifacts = Mapping[str, Mapping[str, Any]]


@dataclass
class _Group:
    """Steps of one rule with the same readers; ``readers`` are numbers of earlier groups."""

    readers: tuple[int, ...]
    paths: list[str] = field(default_factory=list)


def lineage_chains(
    artifacts: Artifacts, roots: Collection[str], with_settings: Collection[str]
) -> dict[str, Any]:
    """Arrange the files behind some files.

    Args:
        artifacts: The verified files, as ``tables.json`` has them.
        roots: The files that numbers stand in; those that are not verified are left out.
        with_settings: The roots whose step's settings are to be told.

    Returns:
        ``files`` with path, sha256 and size, and for a root the number of its ``chain``;
        ``nodes`` with the rule, the numbers of the files and, of more than one, their folder and
        total size; of a download also what it is ``pinned`` to; ``chains`` with the root's rule,
        its settings if asked for, and the rows in reading order: the first is the root, every
        other names its node and the row that it stands under, and each names the rows that it
        reads from although they stand elsewhere.
    """
    makers = {path: _maker(path, facts) for path, facts in artifacts.items()}
    files, nodes, chains = Numbered(), Numbered(), Numbered()

    def file_number(path: str) -> int:
        facts = artifacts[path]
        entry = {"path": path, "sha256": facts["sha256"], "size": format_bytes(facts["bytes"])}
        return files.number(path, entry)

    def node_number(paths: list[str]) -> int:
        numbers = [file_number(path) for path in paths]
        entry: dict[str, Any] = {"files": numbers}
        rule = artifacts[paths[0]].get("rule")
        if rule is not None:
            entry["rule"] = rule
        if len(paths) > 1:
            entry["folder"] = _common_folder(paths)
            entry["size"] = format_bytes(sum(artifacts[path]["bytes"] for path in paths))
        pins = _pins(artifacts, paths, makers)
        if pins:
            entry["pinned"] = pins
        return nodes.number(tuple(numbers), entry)

    for root in sorted(roots):
        if root not in artifacts:
            continue
        told = root in with_settings
        key = (makers[root], told)
        if key not in chains.numbers:
            groups = _groups(root, artifacts, makers)
            rows = _rows(groups)
            for row, group in zip(rows[1:], _reading_order(groups)[1:], strict=True):
                row["node"] = node_number(sorted(groups[group].paths))
            chain = {"rule": artifacts[root].get("rule"), "rows": rows}
            if told:
                chain["settings"] = artifacts[root].get("spec", {})
            chains.number(key, chain)
        files.entries[file_number(root)]["chain"] = chains.numbers[key]
    return {"files": files.entries, "nodes": nodes.entries, "chains": chains.entries}


def _common_folder(paths: Collection[str]) -> str:
    """Return the start that paths share, up to a slash; empty when they share no folder."""
    start = posixpath.commonprefix(list(paths))
    return start[: start.rfind("/") + 1]


def _maker(path: str, facts: Mapping[str, Any]) -> str:
    """Identify the run of the step that made a file; a source file stands for itself.

    The outputs of one run agree in all of this. Two runs that agree differ in their outputs alone.
    """
    if "rule" not in facts:
        return path
    return canonical_json({key: facts[key] for key in ("rule", "spec", "code", "inputs")})


def _behind(root: str, artifacts: Artifacts) -> list[str]:
    found, pending = {root}, [root]
    while pending:
        new = set(artifacts[pending.pop()]["inputs"]) - found
        found |= new
        pending.extend(new)
    return sorted(found)


def _groups(root: str, artifacts: Artifacts, makers: Mapping[str, str]) -> list[_Group]:
    """Group the steps behind a file; the root comes first, each group after all its readers."""
    outputs: dict[str, list[str]] = {}
    readers: dict[str, set[str]] = {}
    for path in _behind(root, artifacts):
        outputs.setdefault(makers[path], []).append(path)
        for source in artifacts[path]["inputs"]:
            readers.setdefault(makers[source], set()).add(makers[path])
    # Sorted, because the order in which equals come out follows the order in which they go in.
    graph = {maker: sorted(readers.get(maker, ())) for maker in sorted(outputs)}
    groups = Numbered()
    group_of: dict[str, int] = {}
    for maker in TopologicalSorter(graph).static_order():
        rule = artifacts[outputs[maker][0]].get("rule")
        reading = tuple(sorted({group_of[reader] for reader in graph[maker]}))
        group_of[maker] = groups.number((rule, reading), _Group(reading))
        groups.entries[group_of[maker]].paths.extend(outputs[maker])
    return groups.entries


def _parents(groups: list[_Group]) -> list[int]:
    """Return for each group the reader farthest from the root, of several the last one.

    The root is its own parent.
    """
    depths, parents = [0], [0]
    for group in groups[1:]:
        parent = max(group.readers, key=lambda reader: (depths[reader], reader))
        parents.append(parent)
        depths.append(depths[parent] + 1)
    return parents


def _reading_order(groups: list[_Group]) -> list[int]:
    """Return the groups in the order of a walk through the tree, small branches first."""
    parents = _parents(groups)
    sizes = [1] * len(groups)
    for number in range(len(groups) - 1, 0, -1):
        sizes[parents[number]] += sizes[number]

    def walk(number: int) -> Iterator[int]:
        yield number
        children = [other for other in range(1, len(groups)) if parents[other] == number]
        for child in sorted(children, key=lambda other: (sizes[other], other)):
            yield from walk(child)

    return list(walk(0))


def _rows(groups: list[_Group]) -> list[dict[str, Any]]:
    order, parents = _reading_order(groups), _parents(groups)
    place = {group: row for row, group in enumerate(order)}
    rows: list[dict[str, Any]] = [{"under": place[parents[group]]} for group in order]
    del rows[0]["under"]
    for group in order:
        for reader in groups[group].readers:
            if reader != parents[group]:
                rows[place[reader]].setdefault("also", []).append(place[group])
    return rows


def _pins(
    artifacts: Artifacts, paths: Iterable[str], makers: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return what each step among the makers that reads no file takes its files from."""
    downloads = {
        makers[path]: dict(_texts(artifacts[path]["spec"]))
        for path in paths
        if "rule" in artifacts[path] and not artifacts[path]["inputs"]
    }
    return [downloads[maker] for maker in sorted(downloads)]


def _texts(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts among nested settings; names of levels are joined by dots."""
    for name, value in settings.items():
        if isinstance(value, str):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _texts(value, f"{prefix}{name}.")
