"""One entry of the catalogue of bad input: what is broken, how, and what the message must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.commands import Command, Ended
from faults.workspace import Workspace, broken, result_digests


@dataclass(frozen=True)
class BadInput:
    """Something that a user could get wrong.

    Attributes:
        name: What is wrong, in a few words; unique in the catalogue.
        edit: Makes it so.
        command: What is run then.
        says: What the message must hold: where it is wrong, and what to do.
    """

    name: str
    edit: Callable[[Workspace], None]
    command: Command
    says: tuple[str, ...]


def unchanged(workspace: Workspace) -> None:
    """The edit of an entry whose command line is what is wrong."""


def provoke(case: BadInput, root: Path) -> Ended:
    """Break the input in a project, run the command, and put the input back.

    Raises:
        AssertionError: The command changed, removed or left behind something among the results.
    """
    with broken(root, case.edit):
        before = result_digests(root)
        ended = case.command(root)
        after = result_digests(root)
    assert after == before, sorted(after.items() ^ before.items())
    return ended
