"""A cluster, a store of objects, and the tiny project before and after a run on this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from pods import running_cluster
from project import snakemake
from stored_run import PAGE, SMALL, Runner, make_repository

NEEDED = ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3", "moto", "flask")


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """The address of an S3 store."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}: make test-kubernetes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project in a repository, before any run."""
    return make_repository(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def local(fresh: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a run on this machine, without a cluster."""
    project = tmp_path_factory.mktemp("local") / "project"
    shutil.copytree(fresh, project, symlinks=True)
    run = snakemake(project, PAGE, profile=SMALL)
    assert run.returncode == 0, run.stdout
    return project


@contextmanager
def a_runner(fresh: Path, store: str, folder: Path) -> Iterator[Runner]:
    """A copy of the project with an empty cluster and an empty store."""
    project = folder / "project"
    shutil.copytree(fresh, project, symlinks=True)
    (folder / "cluster").mkdir()
    with running_cluster(folder / "cluster") as (cluster, kubeconfig):
        yield Runner(project, store, folder.name, cluster, kubeconfig)


@pytest.fixture
def runner(fresh: Path, store: str, tmp_path: Path) -> Iterator[Runner]:
    """A project, a cluster and a store before any run."""
    with a_runner(fresh, store, tmp_path) as runner:
        yield runner


@pytest.fixture(scope="module")
def finished(
    fresh: Path, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Runner, str]]:
    """The same after a run, and what the run printed."""
    with a_runner(fresh, store, tmp_path_factory.mktemp("finished")) as runner:
        yield runner, runner.run(PAGE)
