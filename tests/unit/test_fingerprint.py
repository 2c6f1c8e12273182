"""A digest changes with behaviour only; a closure follows imports only."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from lpsteps import fingerprint
from lpsteps.errors import LpstepsError

SOURCE = '''
"""Docstring."""

import os  # a comment


class Scale:
    """Another docstring."""

    factor = 2
    """How much."""


def double(x):
    """Multiply."""
    return x * Scale.factor
'''

UNCHANGED = {
    "comment": SOURCE.replace("# a comment", "# quite another comment"),
    "module docstring": SOURCE.replace('"""Docstring."""', '"""Rewritten."""'),
    "docstring removed": SOURCE.replace('    """Multiply."""\n', ""),
    "attribute docstring": SOURCE.replace('"""How much."""', '"""By how much."""'),
    "attribute docstring removed": SOURCE.replace('    """How much."""\n', ""),
    "class docstring": SOURCE.replace('"""Another docstring."""', '"""Third."""'),
    "formatting": SOURCE.replace("x * Scale.factor", "(x   *   Scale.factor)"),
    "blank lines": SOURCE.replace("\n\n\n", "\n\n\n\n\n"),
}
CHANGED = {
    "operator": SOURCE.replace("x * ", "x + "),
    "constant": SOURCE.replace("factor = 2", "factor = 3"),
    "name": SOURCE.replace("double", "twice"),
    "import": SOURCE.replace("import os", "import sys"),
    "string that is no docstring": SOURCE.replace("return x", 'x = "text"\n    return x'),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package `lpsteps` of its own, whose modules are given as text."""
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)

    def write(**modules: str) -> None:
        for name, source in modules.items():
            path = tmp_path / "lpsteps" / (name.replace("__dot__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)

    write(__init__="")
    return write


def same_digest(package, source: str, edited: str) -> bool:
    package(source=source, edited=edited)
    digests = fingerprint.closure(["lpsteps.source", "lpsteps.edited"])
    return digests["lpsteps.source"] == digests["lpsteps.edited"]


@pytest.mark.parametrize("edit", UNCHANGED)
def test_digest_ignores(package, edit):
    assert UNCHANGED[edit] != SOURCE
    assert same_digest(package, SOURCE, UNCHANGED[edit])


@pytest.mark.parametrize("edit", CHANGED)
def test_digest_notices(package, edit):
    assert CHANGED[edit] != SOURCE
    assert not same_digest(package, SOURCE, CHANGED[edit])


def test_closure_follows_every_form_of_import(package):
    package(
        step="import lpsteps.a\nfrom lpsteps import b\nfrom . import c\nfrom .d import name\n",
        a="def late():\n    from lpsteps import e\n",
        b="",
        c="",
        d="name = 1\n",
        e="",
        unrelated="",
    )
    expected = ["lpsteps", *(f"lpsteps.{name}" for name in ("a", "b", "c", "d", "e", "step"))]
    assert list(fingerprint.closure(["lpsteps.step"])) == expected


def test_closure_includes_packages_and_skips_type_checking_imports(package):
    package(
        step="from typing import TYPE_CHECKING\nimport lpsteps.sub.inner\n"
        "if TYPE_CHECKING:\n    import lpsteps.types_only\nelse:\n    import lpsteps.runtime\n",
        sub__dot____init__="",
        sub__dot__inner="from ..other import thing\n",
        other="thing = 1\n",
        types_only="",
        runtime="",
    )
    found = fingerprint.closure(["lpsteps.step"])
    assert "lpsteps.sub" in found and "lpsteps.other" in found and "lpsteps.runtime" in found
    assert "lpsteps.types_only" not in found


def test_import_cycles_end(package):
    package(a="import lpsteps.b\n", b="import lpsteps.a\n")
    assert list(fingerprint.closure(["lpsteps.a"])) == ["lpsteps", "lpsteps.a", "lpsteps.b"]


def test_edit_in_a_helper_changes_only_its_entry(package):
    package(step="import lpsteps.helper\n", helper="x = 1\n")
    before = fingerprint.closure(["lpsteps.step"])
    package(helper="x = 22\n")
    after = fingerprint.closure(["lpsteps.step"])
    assert {name for name in before if before[name] != after[name]} == {"lpsteps.helper"}


def test_unknown_and_broken_modules_are_told_in_one_line(package):
    with pytest.raises(LpstepsError, match=r"module 'lpsteps\.absent'"):
        fingerprint.closure(["lpsteps.absent"])
    package(broken="def (:\n")
    with pytest.raises(LpstepsError, match=r"broken\.py:1: does not parse"):
        fingerprint.closure(["lpsteps.broken"])


def test_environment_digest_follows_pins_only(tmp_path: Path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# pins\nb==2\na==1\n")
    first = fingerprint.environment_digest(lock)
    lock.write_text("a==1  # why\n\nb==2\n")
    assert fingerprint.environment_digest(lock) == first
    lock.write_text("a==1\nb==3\n")
    assert fingerprint.environment_digest(lock) != first
    with pytest.raises(LpstepsError, match="missing"):
        fingerprint.environment_digest(tmp_path / "none")


def test_packages_that_results_come_from_are_pinned() -> None:
    lock = Path(fingerprint.ROOT / "requirements.lock").read_text().splitlines()
    assert {line.partition("==")[0] for line in lock} >= fingerprint._COMPUTING


def test_another_installed_version_counts_where_results_come_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==2.13.0\nruff==0.1\npeft==1.0\n")
    installed = {"torch": "2.13.0+cpu", "ruff": "0.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    pinned = fingerprint.environment_digest(lock)
    installed.update(torch="2.13.0+cu130", ruff="0.2")
    assert fingerprint.environment_digest(lock) == pinned
    installed.update(torch="2.14.0")
    other = fingerprint.environment_digest(lock)
    assert other != pinned == fingerprint.pinned_digest(lock)
    installed.update(torch="2.13.0", peft="1.1")
    assert fingerprint.environment_digest(lock) not in (pinned, other)


def test_command_line_lists_a_closure(capsys):
    assert fingerprint.main(["lpsteps.errors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["lpsteps", "lpsteps.errors"]
    assert fingerprint.main(["lpsteps.none"]) == 1
    assert "error:" in capsys.readouterr().err


def test_command_line_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lpsteps.fingerprint", "lpsteps.plan"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(
        fingerprint.closure(["lpsteps.plan"])
    )


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the digests of `package` are kept in."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    tag = sys.implementation.cache_tag
    return tmp_path / "lpsteps/__pycache__" / f"fingerprints.{tag}.json"


def forget() -> None:
    """Be another process."""
    fingerprint._parse.cache_clear()
    fingerprint._Parsed.below.cache_clear()


def test_digests_are_kept_for_other_processes(
    package, stored: Path, monkeypatch: pytest.MonkeyPatch
):
    package(a="import lpsteps.b\n", b="X = 1\n")
    found = fingerprint.closure(["lpsteps.a"])
    forget()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_tree_digest", None)  # nothing is parsed
        assert fingerprint.closure(["lpsteps.a"]) == found
    # As many bytes, written in the same moment perhaps.
    package(b="X = 2\n")
    forget()
    changed = fingerprint.closure(["lpsteps.a"])
    assert changed["lpsteps.b"] != found["lpsteps.b"]
    forget()
    assert fingerprint.closure(["lpsteps.a"]) == changed
    assert not list(stored.parent.glob("*.[0-9]*"))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"valid_for": "another version"}'])
def test_kept_digests_of_no_use_are_replaced(package, stored: Path, content: str):
    package(a="X = 1\n")
    stored.parent.mkdir()
    stored.write_text(content)
    forget()
    found = fingerprint.closure(["lpsteps.a"])
    assert json.loads(stored.read_text())["modules"]["lpsteps.a"][1] == found["lpsteps.a"]


def test_where_nothing_can_be_written_nothing_is_kept(
    package, stored: Path, monkeypatch: pytest.MonkeyPatch
):
    package(a="X = 1\n")
    stored.parent.write_text("a file in place of the folder")
    forget()
    assert "lpsteps.a" in fingerprint.closure(["lpsteps.a"])
    stored.parent.unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    fingerprint.closure(["lpsteps.a"])
    assert not stored.parent.exists()
