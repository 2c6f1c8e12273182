"""What stands on the screen when a run of the workflow ends."""

from __future__ import annotations

import re
from pathlib import Path

from project import snakemake

PLAN = "results/tiny/calibration/wikipedia/selection/llm-streamline/n2/plan.json"


def test_a_run_for_the_page_ends_with_where_it_is(copy: Path):
    (copy / "reports/tables.html").unlink()
    run = snakemake(copy, "reports/tables.html")
    assert run.returncode == 0, run.stdout
    ran, reused, page = re.findall(r"^(?:Ran|Reused|The page).*$", run.stdout, re.MULTILINE)
    assert re.fullmatch(r"Ran 1 job: render_report 1 \(.+\)", ran)
    assert re.fullmatch(r"Reused: the results of \d+ jobs", reused)
    assert page == f"The page: {(copy / 'reports/tables.html').resolve().as_uri()}"
    # Nothing ran, nothing to tell.
    assert not re.search(r"^Ran ", snakemake(copy, "reports/tables.html").stdout, re.MULTILINE)


def test_a_run_for_another_file_names_that(copy: Path):
    (copy / PLAN).unlink()
    run = snakemake(copy, PLAN)
    assert run.returncode == 0, run.stdout
    assert re.search(r"^Ran 1 job: choose_layers 1 \(.+\)$", run.stdout, re.MULTILINE)
    assert f"\nMade: {PLAN}\n" in run.stdout and "The page:" not in run.stdout


def test_a_failure_ends_with_the_log_of_the_failed_job_shown_once(copy: Path):
    (copy / PLAN).unlink()
    (copy / PLAN).parents[1].joinpath("ranking.parquet").write_bytes(b"no Parquet")
    run = snakemake(copy, PLAN)
    assert run.returncode == 1
    log = "logs/choose_layers/tiny.wikipedia.llm-streamline.n2.log"
    end = run.stdout[run.stdout.index(f"Failed: choose_layers; its log: {log}\n") :]
    assert "ERROR" in end and "was changed after rank_layers wrote it" in end
    assert "The same command continues from here." in end
    # The error line of the step itself, and the line of its log.
    assert run.stdout.count("was changed after rank_layers wrote it") == 2
