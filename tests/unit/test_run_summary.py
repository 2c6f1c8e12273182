"""What a run tells at its end, from Snakemake's jobs as they are then."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lpsteps.run_summary import LAST_LINES, PAGE, after_failure, after_success


@dataclass(frozen=True)
class Job:
    name: str
    output: tuple[str, ...]
    log: tuple[str, ...] = ()
    benchmark: str | None = None


@dataclass(frozen=True)
class Group:
    """As Snakemake's own: it has all that its members have together."""

    jobs: tuple[Job, ...]
    name: str = "group"
    benchmark: str | None = None

    @property
    def output(self) -> list[str]:
        return [path for job in self.jobs for path in job.output]

    @property
    def log(self) -> list[str]:
        return [path for job in self.jobs for path in job.log]


@dataclass
class Graph:
    jobs: list[Job]
    finished_jobs: list[Job]
    targetfiles: set[str] = field(default_factory=set)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(name: str, number: int, seconds: float) -> Job:
    path = Path(f"{name}{number}.tsv")
    path.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")
    return Job(name, (f"results/{name}{number}",), benchmark=str(path))


def test_rules_that_ran_come_with_number_and_time_longest_first(folder: Path):
    page = Job("render_report", (str(PAGE),))
    ran = [
        measured("calibrate", 0, 3.0),
        measured("distill", 0, 80.0),
        measured("distill", 1, 41.0),
    ]
    collecting = Job("all", ())
    kept = Job("fetch_data", ("resources/data/x",))
    graph = Graph([page, *ran, collecting, kept], [page, *ran, collecting])
    assert after_success(graph).splitlines() == [
        "Ran 4 jobs: distill 2 (2 min 1 s), calibrate 1 (3 s), render_report 1",
        "Reused: the results of 1 job",
        f"The page: {(folder / PAGE).as_uri()}",
    ]


def test_other_targets_are_named_in_place_of_the_page():
    jobs = [measured("calibrate", number, 1.0) for number in range(4)]
    graph = Graph(jobs, jobs, {f"results/calibrate{number}" for number in range(4)})
    text = after_success(graph).splitlines()
    assert text[1:] == [
        "Reused: nothing",
        "Made: results/calibrate0, results/calibrate1, results/calibrate2 and 1 more",
    ]


def test_a_failed_job_comes_with_the_end_of_its_log():
    Path("rank.log").write_text("".join(f"line {number}\n" for number in range(100)))
    done = measured("calibrate", 0, 1.0)
    failed = Job("rank_layers", ("results/ranking",), log=("rank.log",))
    text = after_failure(Graph([done, failed], [done]), [failed], logs_shown=False).splitlines()
    assert text[0] == "Failed: rank_layers; its log: rank.log"
    assert text[1:-1] == [f"    line {number}" for number in range(100 - LAST_LINES, 100)]
    assert text[-1] == (
        "1 job finished and will not run again. The same command continues from here."
    )


def test_logs_that_snakemake_has_shown_are_only_named():
    Path("rank.log").write_text("line\n")
    failed = Job("rank_layers", ("results/ranking",), log=("rank.log",))
    assert after_failure(Graph([failed], []), [failed], logs_shown=True).splitlines() == [
        "Failed: rank_layers; its log: rank.log",
        "The same command continues from here.",
    ]


def test_a_job_that_was_killed_at_its_start_has_no_log():
    failed = Job("rank_layers", ("results/ranking",), log=("logs/none.log",))
    assert "not written" in after_failure(Graph([failed], []), [failed], logs_shown=False)


def grouped(name: str) -> Job:
    return Job(name, (f"{name}.out",), log=(f"{name}.log",))


def test_of_a_failed_group_only_the_job_that_can_have_failed_is_told():
    done, failed, never = grouped("rank_layers"), grouped("choose_layers"), grouped("build_patch")
    for path in ("rank_layers.log", "rank_layers.out", "choose_layers.log"):
        Path(path).write_text("line\n")
    group = Group((never, failed, done))
    text = after_failure(Graph([done, failed, never], []), [group], logs_shown=False)
    assert text.splitlines() == [
        "Failed: choose_layers; its log: choose_layers.log",
        "    line",
        "The same command continues from here.",
    ]


def test_of_a_group_that_was_killed_at_its_start_all_jobs_are_told():
    group = Group((grouped("choose_layers"), grouped("build_patch")))
    text = after_failure(Graph(list(group.jobs), []), [group], logs_shown=True)
    assert text.splitlines()[:-1] == [
        "Failed: build_patch; its log: build_patch.log",
        "Failed: choose_layers; its log: choose_layers.log",
    ]


def test_a_log_of_other_bytes_is_shown_all_the_same():
    Path("rank.log").write_bytes(b"caf\xe9\n")
    failed = Job("rank_layers", ("results/ranking",), log=("rank.log",))
    assert "caf" in after_failure(Graph([failed], []), [failed], logs_shown=False)


def test_an_interruption_has_nothing_to_add():
    assert after_failure(Graph([], []), [], logs_shown=False) == ""


@dataclass(frozen=True)
class Address:
    query: str


class StoredFile(str):
    """The local copy of a file in object storage, as Snakemake has it."""

    @property
    def storage_object(self) -> Address:
        return Address(f"s3://bucket/{self.removeprefix('.snakemake/storage/s3/bucket/')}")


def stored(path: str) -> StoredFile:
    return StoredFile(f".snakemake/storage/s3/bucket/{path}")


def test_files_in_object_storage_are_named_by_their_address():
    page = Job("render_report", (stored(str(PAGE)),))
    assert after_success(Graph([page], [page])).endswith(f"\nThe page: s3://bucket/{PAGE}")
    score = Job("evaluate", (stored("results/a.json"),))
    graph = Graph([score], [score], {stored("results/a.json")})
    assert after_success(graph).endswith("\nMade: s3://bucket/results/a.json")


def test_a_log_that_is_elsewhere_is_not_said_to_be_empty(folder: Path):
    failed = Job("evaluate", (stored("results/a.json"),), log=(stored("logs/a.log"),))
    text = after_failure(Graph([failed], []), [failed], logs_shown=False)
    assert text.splitlines()[0] == "Failed: evaluate; its log: s3://bucket/logs/a.log"
    assert len(text.splitlines()) == 2
