"""A finished project whose files are broken for one command and put back afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DELETE = object()
"""In place of a value: the key is taken out."""

RESULT_FOLDERS = ("resources", "results", "reports")


class Workspace:
    """Edits files of a project and undoes the edits.

    Attributes:
        root: The project, which is also the working directory of the commands.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._before: dict[Path, bytes | None] = {}
        self._variables: dict[str, str | None] = {}

    def _keep(self, path: Path) -> None:
        if path not in self._before:
            self._before[path] = path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes | str) -> None:
        """Give a file other content, or make a new one."""
        path = self.root / name
        self._keep(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never through a link: a model's files share their bytes with the folder they came from.
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_unrecorded(self, name: str, content: bytes | str) -> None:
        """Give a result other content, as one that no step has written and nothing vouches for."""
        self.write(name, content)
        record = f"{name}.record.json"
        if (self.root / record).is_file():
            self.remove(record)

    def write_listed(self, name: str, content: bytes | str) -> None:
        """Give a file of a folder with a manifest other content, and let the manifest agree."""
        self.write(name, content)
        path = self.root / name
        manifest = path.with_name("manifest.json")
        listed = json.loads(manifest.read_text())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        listed["files"][path.name] = {"sha256": digest, "bytes": path.stat().st_size}
        self.write_unrecorded(str(manifest.relative_to(self.root)), json.dumps(listed))

    def remove(self, name: str) -> None:
        """Take a file away."""
        self._keep(self.root / name)
        (self.root / name).unlink()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def change(self, name: str, edit: Callable[[Any], None]) -> None:
        """Edit the parsed content of a YAML or JSON file."""
        content = yaml.safe_load(self.read(name))
        edit(content)
        is_json = name.endswith(".json")
        self.write(name, json.dumps(content) if is_json else yaml.safe_dump(content))

    def set(self, name: str, key: str, value: Any) -> None:
        """Give the key `a/b/c` of a YAML or JSON file a value; `DELETE` takes it out."""

        def edit(content: Any) -> None:
            *parents, last = (int(part) if part.isdecimal() else part for part in key.split("/"))
            for part in parents:
                content = content[part]
            if value is DELETE:
                del content[last]
            else:
                content[last] = value

        self.change(name, edit)

    def change_table(self, name: str, edit: Callable[[pa.Table], pa.Table]) -> None:
        """Edit a Parquet file."""
        edited = edit(pq.read_table(self.root / name, partitioning=None))
        sink = pa.BufferOutputStream()
        pq.write_table(edited, sink)
        self.write(name, sink.getvalue().to_pybytes())

    def truncate(self, name: str) -> None:
        """Cut off the second half of a file."""
        content = self.read(name)
        self.write(name, content[: len(content) // 2])

    def flip_bit(self, name: str) -> None:
        """Flip one bit in the middle of a file."""
        content = bytearray(self.read(name))
        content[len(content) // 2] ^= 1
        self.write(name, bytes(content))

    def set_variable(self, name: str, value: str) -> None:
        """Set an environment variable."""
        self._variables.setdefault(name, os.environ.get(name))
        os.environ[name] = value

    def restore(self) -> None:
        """Undo all edits."""
        for path, content in self._before.items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        for name, value in self._variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()
        self._variables.clear()


@contextmanager
def broken(root: Path, edit: Callable[[Workspace], None]) -> Iterator[Workspace]:
    """A project with an edit, which is undone at the end; it is the working directory meanwhile."""
    workspace = Workspace(root)
    previous = Path.cwd()
    os.chdir(root)
    try:
        edit(workspace)
        yield workspace
    finally:
        workspace.restore()
        os.chdir(previous)


def result_digests(root: Path) -> dict[str, str]:
    """SHA-256 of everything that steps have written, by path, and of what they left behind."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in RESULT_FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }
