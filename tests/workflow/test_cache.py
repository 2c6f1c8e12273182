"""Results that working copies share by Snakemake's cache: taken over when nothing differs, only then."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from project import make_project, snakemake

STATISTICS = "results/{model}/calibration/wikipedia/stats.parquet"
FROM_STATISTICS = [
    STATISTICS.format(model="tiny"),
    "results/tiny/calibration/wikipedia/selection/shortgpt/ranking.parquet",
]
RESULTS = [*FROM_STATISTICS, "results/tiny/dense/scores/novels.json"]


def build_again(project: Path, *paths: str) -> list[str]:
    """Remove results and ask for them, with the cache; return those that were put into it."""
    for path in paths:
        (project / path).unlink()
    run = snakemake(project, *paths, "--cache")
    assert run.returncode == 0, run.stdout
    assert all(f"Symlinking output file {path} from cache" in run.stdout for path in paths)
    return [path for path in paths if f"Moving output file {path} to cache" in run.stdout]


@pytest.fixture
def first(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy that has put its results into an empty cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
    assert build_again(copy, *RESULTS) == RESULTS
    return copy


@pytest.fixture
def second(first: Path, finished: Path, tmp_path: Path) -> Path:
    """Another working copy, made by a run that knew of no cache."""
    target = tmp_path / "second"
    shutil.copytree(finished, target, symlinks=True)
    return target


@pytest.mark.slow
def test_a_second_working_copy_computes_nothing_again(finished: Path, second: Path):
    assert build_again(second, *RESULTS) == []
    for path in RESULTS:
        assert (second / path).is_symlink()
        assert (second / path).read_bytes() == (finished / path).read_bytes()
    assert "Nothing to be done" in snakemake(second, "-n", "reports/tables.html").stdout


@pytest.mark.slow
def test_other_code_is_another_result(second: Path):
    with (second / "lpsteps/calibration.py").open("a") as module:
        module.write("\nADDED_BY_AN_EDIT = 1\n")
    assert build_again(second, *RESULTS) == FROM_STATISTICS


@pytest.mark.slow
def test_the_same_settings_by_another_name_are_another_result(second: Path):
    """Its record names other paths."""
    path = STATISTICS.format(model="tiny-b")
    assert build_again(second, path) == [path]
    record = (second / f"{path}.record.json").read_text()
    assert "results/tiny-b/" in record and "results/tiny/" not in record


PRINT_PLANNED = """
rule print_planned:
    output:
        "planned.json",
    shell:
        "printenv LPSTEPS_PLANNED_CODE > {output}"
"""


def test_jobs_of_a_shared_run_know_the_code_that_was_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unfinished = make_project(tmp_path)
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
    with (unfinished / "Snakefile").open("a") as snakefile:
        snakefile.write(PRINT_PLANNED)
    assert snakemake(unfinished, "planned.json").returncode != 0
    run = snakemake(unfinished, "planned.json", "--cache")
    assert run.returncode == 0, run.stdout
    planned = json.loads((unfinished / "planned.json").read_text())
    assert planned.keys() >= {"lpsteps.calibration", "lpsteps.recovery.linearpatch"}
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in planned.values())
