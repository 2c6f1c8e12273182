"""What all tests share: tiny random models of every supported family, and the report's made-up run."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from shared_folder import shared_folder
from tiny_families import COMMON, FAMILIES, FURTHER

from lpsteps import definition_files

# Copies of the project run hundreds of programs, each of which would compile its modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tests run side by side; one thread each also keeps their rounding the same on any machine.
os.environ.setdefault("LPSTEPS_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A slow machine is no mistake.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# Nothing here has to outlive the machine, and the tests write thousands of files. Programs that they
# start flush theirs.
os.fsync = lambda descriptor: None  # type: ignore[assignment]

ModelFactory = Callable[..., Any]
WrittenRun = tuple[Path, dict[str, list[str]]]


@cache
def _version(name: str, of_package: Callable[[str], str] = metadata.version) -> str | None:
    try:
        return of_package(name)
    except metadata.PackageNotFoundError:
        return None


def _version_once(name: str) -> str:
    """Look a package up once; each step's record has a hundred, and here a process runs many steps."""
    version = _version(name)
    if version is None:
        raise metadata.PackageNotFoundError(name)
    return version


metadata.version = _version_once


_parsed = cache(definition_files.parse)


def _parse_once(text: str) -> Any:
    """Parse each text once; here a process reads the same definitions hundreds of times."""
    return copy.deepcopy(_parsed(text))


definition_files.parse = _parse_once

# The slowest first, or one worker ends with them while the others idle.
_ORDER = ("workflow", "faults", "docs", "browser", "steps", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files by how long those of their folder take; see `--no-loadscope-reorder`."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=place)


@pytest.fixture(scope="session")
def written_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> WrittenRun:
    """The report's made-up run and its files by kind, written by the first worker that needs it."""
    import report_example as example

    folder = shared_folder(tmp_path_factory, worker_id) / "written"
    paths = folder.with_suffix(".json")
    with FileLock(f"{folder}.lock"):
        if not paths.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            paths.write_text(json.dumps(example.write_run(folder)))
    return folder, json.loads(paths.read_text())


@pytest.fixture(scope="session")
def built_tables(
    written_run: WrittenRun, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Path:
    """`tables.json` of the made-up run, built by the first worker that needs it."""
    import report_example as example

    from lpsteps.steps.build_tables import main

    written, paths = written_run
    folder = shared_folder(tmp_path_factory, worker_id) / "built"
    tables = folder / "out/tables.json"
    with FileLock(f"{folder}.lock"):
        if not tables.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            shutil.copytree(written, folder)
            example.copy_reports(folder)
            arguments = [*example.build_arguments(paths), "--spec", json.dumps(example.spec())]
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert main(arguments) == 0
    return tables


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each supported model family in turn."""
    return str(request.param)


@pytest.fixture
def families() -> list[str]:
    """All supported model families."""
    return sorted(FAMILIES)


@pytest.fixture
def tiny_model() -> ModelFactory:
    """A factory `tiny_model(family="llama", layers=6, seed=0, **config)` of random models."""

    def make(family: str = "llama", layers: int = 6, seed: int = 0, **config: Any) -> Any:
        import torch
        import transformers

        name, settings = {**FURTHER, **FAMILIES}[family]
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, name)(
                **COMMON | settings | {"num_hidden_layers": layers} | config
            )
        )
        # At their small initial scale random layers hardly move the residual stream, and a test
        # that confuses two of them would pass.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2 and "layers" in name:
                    parameter.mul_(5.0)
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture
def tiny_llama(tiny_model: ModelFactory) -> Any:
    """A random Llama with 6 layers, hidden size 48 and 128 tokens."""
    return tiny_model("llama")


@pytest.fixture
def tiny_model_folder(tiny_model: ModelFactory, tmp_path: Path) -> ModelFactory:
    """A factory like `tiny_model` that saves the model and returns the path of its manifest."""

    def make(family: str = "llama", **options: Any) -> Path:
        from lpsteps.artifacts import file_manifest, write_json

        folder = tmp_path / "models" / family
        tiny_model(family, **options).save_pretrained(folder)
        manifest = file_manifest(folder, [path.name for path in folder.iterdir()])
        write_json(folder / "manifest.json", manifest)
        return folder / "manifest.json"

    return make
