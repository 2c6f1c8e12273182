"""The numbers of jobs in docs/profiles.md are those that Snakemake plans in a fresh clone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guide import Command, type_command
from project import CHECKOUT, copy_checkout

PAGE = (CHECKOUT / "docs/profiles.md").read_text()
JOBS = dict(re.findall(r"^\| `(config/\w+\.yaml)` \|.*\| (\d+) \|$", PAGE, flags=re.MULTILINE))


def test_the_table_has_all_profiles():
    profiles = {
        f"config/{path.name}"
        for path in (CHECKOUT / "config").glob("*.yaml")
        if path.read_text().count("\nsuites:")
    }
    assert set(JOBS) == profiles


@pytest.mark.slow
@pytest.mark.parametrize("profile", sorted(JOBS))
def test_the_numbers_of_jobs(profile: str, tmp_path: Path):
    project = tmp_path / "project"
    copy_checkout(project)
    command = "snakemake -n reports/tables.html --quiet rules --configfile"
    run = type_command(Command(f"{command} {profile}", ""), project)
    assert run.returncode == 0, run.stdout
    assert re.findall(r"^total +(\d+)$", run.stdout, flags=re.MULTILINE)[-1] == JOBS[profile]
