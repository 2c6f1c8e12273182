"""One Slurm for all tests of this folder, and the tiny project as it was before and after a local run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from project import make_project, snakemake
from single_node import reason_to_skip, single_node_slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A Slurm that runs, and Snakemake's plugin for it."""
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed: make test-slurm")
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    with single_node_slurm():
        yield


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project before any run."""
    return make_project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def local(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a run on this machine, without Slurm."""
    project = tmp_path_factory.mktemp("local") / "project"
    shutil.copytree(fresh, project, symlinks=True)
    run = snakemake(project, "reports/tables.html")
    assert run.returncode == 0, run.stdout
    return project


@pytest.fixture
def copy(fresh: Path, tmp_path: Path) -> Path:
    """A copy of the project before any run."""
    target = tmp_path / "project"
    shutil.copytree(fresh, target, symlinks=True)
    return target


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replace text that must be there exactly once in a file."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    return replace
