"""Jobs of a cluster read the config again, and must not take another one than was planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from project import PROFILE, make_project, snakemake

PRINT_PLANNED = """
rule print_planned:
    output:
        "planned.txt",
    shell:
        "printenv LPSTEPS_PLANNED_SETTINGS > {output}"
"""


def test_a_job_refuses_a_config_that_changed_since_its_run_was_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = make_project(tmp_path)
    with (project / "Snakefile").open("a") as snakefile:
        snakefile.write(PRINT_PLANNED)
    run = snakemake(project, "planned.txt")
    assert run.returncode == 0, run.stdout
    # As a job that this run had submitted.
    monkeypatch.setenv("LPSTEPS_PLANNED_SETTINGS", (project / "planned.txt").read_text().strip())
    assert snakemake(project, "planned.txt", "-n").returncode == 0

    definitions = project / "config/tiny_definitions.yaml"
    before = definitions.read_text()
    content = yaml.safe_load(before)
    content["calibrations"]["wikipedia"]["windows"] += 1
    definitions.write_text(yaml.safe_dump(content))
    refused = snakemake(project, "planned.txt", "-n")
    assert refused.returncode == 1
    message = f"error: {PROFILE}: the config, or a file that it names, changed since this run was"
    assert message in refused.stdout and "Traceback" not in refused.stdout

    definitions.write_text(f"# Only a comment.\n{before}")
    assert snakemake(project, "planned.txt", "-n").returncode == 0
