"""`lpsteps status` says what a dry run of Snakemake says, and why."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from project import PROFILE, snakemake

PATCH = "build_patch/tiny.wikipedia.llm-streamline.n2.channel-scale"
ARGUMENTS = "write_arguments/build_tables"
SCORES = "evaluate_perplexity/tiny/dense/perplexity"


def status(
    project: Path, *arguments: str, profile: str = PROFILE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lpsteps.cli", "status", *arguments, "--configfile", profile],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )


def test_a_finished_project_is_up_to_date(finished: Path):
    run = status(finished)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(r"reports/tables\.html: up to date, \d+ jobs\n", run.stdout)


def test_stale_jobs_are_those_of_a_dry_run_each_with_its_reason(copy: Path, edit):
    with (copy / "lpsteps/recovery/channel_scale.py").open("a") as module:
        module.write("\nADDED_BY_AN_EDIT = 1\n")
    edit(copy / PROFILE, "wikipedia: 2", "wikipedia: 3")
    edit(copy / "config/tiny_definitions.yaml", "title: Tiny Llama", "title: Tiny model")
    (copy / "reports/tables.html").unlink()
    run = status(copy, "--json")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    pending = {job["job"]: job for job in found["pending"]}
    dry = snakemake(copy, "-n", "-p", "reports/tables.html")
    # The rule of the arguments runs no step program, so it has no such option, record or time.
    assert set(pending) - {ARGUMENTS} == set(re.findall(r"--log logs/(\S+)\.log", dry.stdout))
    assert [cause["kind"] for cause in pending[ARGUMENTS]["causes"]] == ["setting"]
    assert not set(pending) & {name for names in found["current"].values() for name in names}
    assert pending[PATCH]["causes"] == [
        {"kind": "code", "detail": "lpsteps.recovery.channel_scale"}
    ]
    assert [cause["kind"] for cause in pending[SCORES]["causes"]] == ["setting"]
    assert pending[SCORES]["causes"][0]["detail"].endswith(": 2 -> 3")
    page = pending["render_report/tables"]
    assert page["causes"] == [{"kind": "missing", "detail": "reports/tables.html"}]
    assert "build_tables/tables" in page["follows"]
    tables = pending["build_tables/tables"]
    assert (tables["causes"], ARGUMENTS in tables["follows"]) == ([], True)
    # All of these have run before, in this very project.
    assert {job["basis"] for name, job in pending.items() if name != ARGUMENTS} == {"job"}
    assert found["unmeasured"] == 1
    assert found["doubtful"] == {}


def test_a_plan_that_cannot_be_made_ends_in_snakemakes_words_and_one_line(finished: Path):
    run = status(finished, "reports/nonsense.html")
    assert run.returncode == 1 and run.stdout == ""
    assert "MissingRuleException" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: snakemake cannot plan the run")


def test_a_profile_that_is_not_there_is_one_line(finished: Path):
    run = status(finished, profile="config/nonsense.yaml")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "error: --configfile: config/nonsense.yaml: no such file\n"


def test_settings_beside_the_profile_are_those_of_the_dry_run(finished: Path):
    run = status(finished, "--json", "--config", "seed=7", "--config", "batch_tokens=4096")
    assert run.returncode == 0, run.stderr
    pending = {job["job"] for job in json.loads(run.stdout)["pending"]}
    dry = snakemake(
        finished, "-n", "-p", "reports/tables.html", "--config", "seed=7", "batch_tokens=4096"
    )
    jobs = set(re.findall(r"--log logs/(\S+)\.log", dry.stdout))
    assert jobs and pending - {ARGUMENTS} == jobs


def test_a_setting_that_is_none_is_one_line(finished: Path):
    run = status(finished, "--config", "--touch")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "error: --config: '--touch': give a setting as KEY=VALUE, as seed=1\n"
