"""What `lpsteps status` makes of Snakemake's plan, the records and the times of earlier jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lpsteps.artifacts import write_json
from lpsteps.dry_run import Job
from lpsteps.provenance import record_path, seal
from lpsteps.staleness import Cause, causes
from lpsteps.status import job_lines, lines, status

SPEC = {"windows": 32, "basis": {"kind": "hadamard"}, "modules": ["lpsteps.recovery.linearpatch"]}
CODE = {"lpsteps.artifacts": "aa", "lpsteps.steps.calibrate": "bb"}
PARAMS = {"spec": SPEC, "code": CODE, "env": "cc"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(name: str = "calibrate/m.c", **changes: Any) -> Job:
    facts: dict[str, Any] = {
        "step": name.split("/")[0],
        "outputs": [f"results/{name}.parquet"],
        "benchmark": f"results/runtime/{name}.tsv",
        "params": PARAMS,
        "to_run": True,
        "missing": [],
        "unfinished": False,
        "updated": [],
        "awaited": [],
        "added": [],
        "removed": [],
        "changed": [],
    }
    return Job(name=name, **facts | changes)


def record(of: Job, **changes: Any) -> None:
    """Write the record of a job that ran with `PARAMS`, some of it changed."""
    path = record_path(Path(of.outputs[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"schema": 1, "spec": SPEC, "code": CODE, "environment": "cc", "inputs": []}
    write_json(path, seal(content | changes))


def measure(of: Job, seconds: str) -> None:
    path = Path(of.benchmark)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t1.0\n")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"missing": ["a", "b"]}, Cause("missing", "a, b")),
        ({"unfinished": True}, Cause("unfinished", "results/calibrate/m.c.parquet")),
        ({"updated": ["data/x"]}, Cause("content", "data/x")),
        ({"added": ["new"], "removed": ["old"]}, Cause("inputs", "+new, -old")),
        ({"changed": ["rule"]}, Cause("command", "the text of the rule")),
        ({"changed": ["software"]}, Cause("software", "the environment of the rule")),
    ],
)
def test_what_snakemake_says_is_told(changes: dict[str, Any], expected: Cause):
    assert causes(job(**changes)) == [expected]


def test_a_job_that_only_follows_others_has_no_cause_of_its_own():
    assert causes(job(awaited=["results/other"])) == []


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({"code": {**CODE, "lpsteps.artifacts": "old"}}, [Cause("code", "lpsteps.artifacts")]),
        (
            {"code": {"lpsteps.artifacts": "aa", "lpsteps.gone": "dd"}},
            [Cause("code", "lpsteps.gone, lpsteps.steps.calibrate")],
        ),
        ({"spec": {**SPEC, "windows": 16}}, [Cause("setting", "windows: 16 -> 32")]),
        (
            {"spec": {**SPEC, "basis": {"kind": "identity", "seed": 0}}},
            [
                Cause("setting", 'basis.kind: "identity" -> "hadamard"'),
                Cause("setting", "basis.seed: 0 -> (none)"),
            ],
        ),
        (
            {"spec": {"windows": 32, "basis": {"kind": "hadamard"}}},
            [Cause("setting", 'modules: (none) -> ["lpsteps.recovery.linearpatch"]')],
        ),
        ({"environment": "old"}, [Cause("software", "requirements.lock")]),
        ({}, [Cause("command", "its arguments")]),
    ],
)
def test_the_record_tells_which_parameter_changed(
    folder: Path, before: dict[str, Any], expected: list[Cause]
):
    changed = job(changed=["params"])
    record(changed, **before)
    assert causes(changed) == expected


def test_a_change_is_told_also_where_snakemake_stopped_at_another_reason(folder: Path):
    follower = job(awaited=["results/other"])
    record(follower, environment="old")
    assert causes(follower) == [Cause("software", "requirements.lock")]


def test_long_values_are_cut(folder: Path):
    changed = job(changed=["params"])
    record(changed, spec={**SPEC, "windows": "x" * 1000})
    (cause,) = causes(changed)
    assert len(cause.detail) < 70 and cause.detail.endswith("... -> 32")


def test_a_changed_list_of_arguments_is_a_changed_setting(folder: Path):
    """A rule without a step program writes no record."""
    listing = job("write_arguments/tables", params={"spec": "{}"}, changed=["params"])
    expected = Cause("setting", "what results/write_arguments/tables.parquet lists")
    assert causes(listing) == [expected]
    assert causes(job("write_arguments/tables", params={"spec": "{}"}, updated=["t.j2"])) == [
        Cause("content", "t.j2")
    ]


def test_settings_that_go_through_a_file_are_not_compared(folder: Path):
    """The record has them, the rule has no `spec`."""
    tables = job(params={"code": CODE, "env": "cc"}, awaited=["results/arguments/tables.txt"])
    record(tables)
    assert causes(tables) == []
    record(tables, environment="old")
    assert causes(tables) == [Cause("software", "requirements.lock")]


def test_a_missing_record_is_said(folder: Path):
    (cause,) = causes(job(changed=["params"]))
    assert cause.heading.startswith("no record to go by: results/calibrate/m.c.parquet.record.json")


def test_time_is_that_of_the_same_job_else_the_median_of_its_step(folder: Path):
    known, other = job("calibrate/m.known"), job("calibrate/m.other")
    unknown = job("distill/m", benchmark=None)
    measure(known, "12.5")
    found = status(["page"], [known, other, unknown], {"calibrate": 8.0})
    assert [(entry.seconds, entry.basis) for entry in found.pending] == [
        (12.5, "job"),
        (8.0, "step"),
        (None, None),
    ]
    assert (found.seconds, found.unmeasured) == (20.5, 1)
    first, *_ = lines(found)
    assert first == "page: 3 of 3 jobs would run, about 20 s one after another, and 1 unmeasured"


def test_nothing_measured_is_said_and_not_called_zero(folder: Path):
    first, *_ = lines(status(["page"], [job()], {}))
    assert "time unknown" in first


def test_text_has_every_step_and_groups_jobs_by_cause(folder: Path):
    scores = [
        job(f"evaluate_harness/m/{n}", missing=[f"results/{n}.json"], awaited=["results/p"])
        for n in range(5)
    ]
    patch = job("build_patch/m", outputs=["results/p"], changed=["params"])
    page = job("render_report/tables", awaited=["reports/tables.json"])
    kept = job(to_run=False)
    record(kept)
    record(patch, code={**CODE, "lpsteps.steps.calibrate": "old"})
    found = status(["reports/tables.html"], [*scores, patch, page, kept], {"build_patch": 90.0})
    text = list(lines(found))
    assert [line.split() for line in text[2:7]] == [
        ["step", "up", "to", "date", "to", "run", "time"],
        ["build_patch", "0", "1", "1", "min", "30", "s"],
        ["calibrate", "1", "0"],
        ["evaluate_harness", "0", "5", "unknown"],
        ["render_report", "0", "1", "unknown"],
    ]
    assert text[8:] == [
        "Why:",
        "  not there yet",
        "    evaluate_harness/m/0",
        "    evaluate_harness/m/1",
        "    evaluate_harness/m/2",
        "    and 2 more",
        "  code changed: lpsteps.steps.calibrate",
        "    build_patch/m",
        "  1 more because what they read is made anew",
    ]
    listed = "\n".join(job_lines(found))
    assert "  build_patch/m (1 min 30 s as a median of the step)" in listed
    assert "    after build_patch/m" in listed
    assert "  render_report/tables (time unknown)" in listed


def test_current_targets_take_one_line(folder: Path):
    kept = job(to_run=False)
    record(kept)
    assert list(lines(status(["page"], [kept], {}))) == ["page: up to date, 1 job"]


def test_current_files_whose_records_disagree_are_named(folder: Path):
    """As after `snakemake --touch`, which makes Snakemake forget what made a file."""
    touched, bare, fine = (job(f"calibrate/{name}", to_run=False) for name in ("a", "b", "c"))
    record(touched, spec={**SPEC, "windows": 16})
    record(fine)
    found = status(["page"], [touched, bare, fine], {})
    assert list(found.doubtful) == [touched.outputs[0], bare.outputs[0]]
    text = "\n".join(lines(found))
    assert "2 files count as current although their records say otherwise" in text
    assert "  results/calibrate/b.parquet (no record to go by: results/calibrate/b" in text
    assert "  results/calibrate/a.parquet (setting changed: windows: 16 -> 32)" in text


def test_a_lost_record_is_told_of_any_output(folder: Path):
    two = job(
        "calibrate/a", to_run=False, missing=["results/calibrate/a.manifest.json.record.json"]
    )
    record(two)
    found = status(["page"], [two], {})
    assert "a.manifest.json.record.json: missing" in "\n".join(lines(found))


def test_files_that_are_gone_are_not_called_up_to_date(folder: Path):
    """Snakemake makes only what a job that runs needs, and all that needs these is there."""
    gone = [
        job(f"calibrate/{name}", to_run=False, missing=[f"results/calibrate/{name}.parquet"])
        for name in "abcd"
    ]
    half = job("calibrate/e", to_run=False, missing=["results/calibrate/e.parquet.record.json"])
    kept = job("calibrate/f", to_run=False)
    record(gone[0], spec={**SPEC, "windows": 16})
    record(kept)
    found = status(["page"], [*gone, half, kept], {})
    assert found.gone == [each.outputs[0] for each in gone]
    assert list(found.doubtful) == half.outputs
    text = "\n".join(lines(found))
    assert "Gone, while what was made from them is there; to have them back" in text
    assert "  results/calibrate/c.parquet\n  and 1 more" in text


def test_jobs_without_a_spec_or_a_step_program_are_not_doubtful(folder: Path):
    tables = job("build_tables/t", params={"code": CODE, "env": "cc"}, to_run=False)
    record(tables)
    listing = job("write_arguments/t", params={"spec": "{}"}, to_run=False)
    found = status(["page"], [tables, listing], {})
    assert list(lines(found)) == ["page: up to date, 2 jobs"]


def test_json_holds_all_of_it(folder: Path):
    pending, kept = job("distill/m", missing=["x"]), job(to_run=False)
    record(kept)
    found = json.loads(json.dumps(status(["page"], [pending, kept], {}).as_json()))
    assert found == {
        "targets": ["page"],
        "current": {"calibrate": ["calibrate/m.c"]},
        "pending": [
            {
                "job": "distill/m",
                "step": "distill",
                "outputs": ["results/distill/m.parquet"],
                "causes": [{"kind": "missing", "detail": "x"}],
                "follows": [],
                "seconds": None,
                "basis": None,
            }
        ],
        "doubtful": {},
        "gone": [],
        "seconds": 0,
        "unmeasured": 1,
    }
