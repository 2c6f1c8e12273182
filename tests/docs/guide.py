"""Run a guide as a reader would: its files are written, its commands typed, their outputs compared.

A fenced block says in its first line what it is for:

    ```python file=PATH        the content of a new file
    ```yaml into=PATH          entries to add to a YAML file; lists go on
    ```console                 commands after `$ `, each with what it prints; `exit=1` where it fails

In printed lines `...` stands for anything, and a line of `...` alone for any number of lines.

The guides speak of the default profile's model and data. The tests run them on tiny ones, so the
names in `STAND_INS` are exchanged first; nothing else is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from project import CHECKOUT, write_yaml

STAND_INS: Mapping[str, str] = {
    "smollm2-135m": "tiny",
    "/n5/": "/n2/",
    "squad-wikipedia/validation.parquet": "text-wikipedia/test.parquet",
    "squad-wikipedia": "text-wikipedia",
}

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<attributes>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide."""

    language: str
    attributes: Mapping[str, str]
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a console block and what the guide says that it prints."""

    text: str
    printed: str


def blocks(name: str) -> list[Block]:
    """The fenced blocks of a page, given by its path in the checkout."""
    page = (CHECKOUT / name).read_text()
    found = []
    for match in _BLOCK.finditer(page):
        attributes = dict(part.split("=", 1) for part in match["attributes"].split())
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = page[: match.start()].count("\n") + 1
        found.append(Block(match["language"], attributes, text, line))
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block, in order; a line that ends in a backslash goes on."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not parts[0], f"line {block.line}: a console block begins with a command"
    found = []
    for part in parts[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", part)
        assert command
        found.append(Command(command[0].strip(), part[command.end() :]))
    return found


def stand_in(text: str, names: Mapping[str, str] = STAND_INS) -> str:
    """Exchange the names of the default profile for those of the tiny one."""
    for name, other in names.items():
        text = text.replace(name, other)
    return text


def merged(content: Any, addition: Any) -> Any:
    """A YAML document with the entries of another one: mappings are joined, lists go on."""
    if isinstance(content, dict) and isinstance(addition, dict):
        both = {key: merged(content.get(key), value) for key, value in addition.items()}
        return {**content, **both}
    if isinstance(content, list) and isinstance(addition, list):
        return content + addition
    return addition


def write_block(block: Block, project: Path, names: Mapping[str, str] = STAND_INS) -> None:
    """Do in a project what a block with `file=` or `into=` asks for."""
    text = stand_in(block.text, names)
    if "file" in block.attributes:
        (project / block.attributes["file"]).write_text(text)
    if "into" in block.attributes:
        path = project / block.attributes["into"]
        content = yaml.safe_load(path.read_text())
        write_yaml(path, merged(content, yaml.safe_load(text)))


def type_command(command: Command, project: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, in the project, with the project's own package."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", stand_in(command.text)],
        cwd=project,
        env={**os.environ, "PATH": programs, "PYTHONPATH": str(project), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


def matches(shown: str, printed: str) -> bool:
    """Whether a command printed what a guide shows, up to trailing spaces."""
    pattern = ""
    for line in shown.splitlines():
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += r"[^\n]*?".join(map(re.escape, line.rstrip().split("..."))) + r"\n"
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return re.fullmatch(pattern, lines) is not None


def follow(found: Iterable[Block], project: Path, page: str) -> int:
    """Follow blocks of a page in order, and compare what each command prints.

    Returns:
        How many commands were run.
    """
    count = 0
    for block in found:
        if block.language != "console":
            write_block(block, project)
            continue
        for command in commands(block):
            run = type_command(command, project)
            where = f"{page}, block of line {block.line}: {command.text}\n{run.stdout}"
            assert matches(stand_in(command.printed), run.stdout), where
            count += 1
        # As in a shell, the last command decides.
        assert run.returncode == int(block.attributes.get("exit", "0")), where
    return count
