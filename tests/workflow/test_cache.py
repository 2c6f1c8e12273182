"""Results that working copies share by Snakemake's cache: taken over when nothing differs, only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import snakemake

STATISTICS = "results/{model}/calibration/wikipedia/stats.parquet"
# Result -> log of the job that makes it; a job that runs writes its log anew.
JOBS = {
    STATISTICS.format(model="tiny"): "logs/calibrate/tiny.wikipedia.log",
    "results/tiny/calibration/wikipedia/selection/shortgpt/ranking.parquet": (
        "logs/rank_layers/tiny.wikipedia.shortgpt.log"
    ),
    "results/tiny/dense/scores/novels.json": "logs/evaluate_perplexity/tiny/dense/perplexity.log",
}
FROM_STATISTICS = list(JOBS)[:2]


def build_again(project: Path, *paths: str) -> list[str]:
    """Remove results and ask for them, with the cache; return those that a job was run for."""
    for path in paths:
        (project / path).unlink()
    before = {path: (project / JOBS[path]).stat().st_mtime_ns for path in paths}
    run = snakemake(project, *paths, "--cache")
    assert run.returncode == 0, run.stdout
    return [path for path in paths if (project / JOBS[path]).stat().st_mtime_ns > before[path]]


@pytest.fixture
def first(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy that has put its results into an empty cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
    assert build_again(copy, *JOBS) == list(JOBS)
    return copy


@pytest.fixture
def second(first: Path, finished: Path, tmp_path: Path) -> Path:
    """Another working copy, made by a run that knew of no cache."""
    target = tmp_path / "second"
    shutil.copytree(finished, target, symlinks=True)
    return target


@pytest.mark.slow
def test_a_second_working_copy_computes_nothing_again(finished: Path, second: Path):
    assert build_again(second, *JOBS) == []
    for path in JOBS:
        assert (second / path).is_symlink()
        assert (second / path).read_bytes() == (finished / path).read_bytes()
    assert "Nothing to be done" in snakemake(second, "-n", "reports/tables.html").stdout


@pytest.mark.slow
def test_other_code_is_another_result(second: Path):
    with (second / "lpsteps/calibration.py").open("a") as module:
        module.write("\nADDED_BY_AN_EDIT = 1\n")
    assert build_again(second, *JOBS) == FROM_STATISTICS
    assert [path for path in JOBS if (second / path).is_symlink()] == list(JOBS)


@pytest.mark.slow
def test_the_same_settings_by_another_name_are_another_result(second: Path):
    """Its record names other paths."""
    path = STATISTICS.format(model="tiny-b")
    (second / path).unlink()
    assert snakemake(second, path, "--cache").returncode == 0
    record = (second / f"{path}.record.json").read_text()
    assert "results/tiny-b/" in record and "results/tiny/" not in record
