"""Snakemake with the Slurm profile in a project, never waited for without an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from project import PROFILE

SECONDS = 3600
# Without a database behind Slurm only squeue knows how a job ended. Everything else makes a run of
# jobs of a few seconds each bearable.
OPTIONS = [
    *("--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "6"),
    *("--latency-wait", "10"),
    *("--max-threads", "1"),
]


def start_on_slurm(project: Path, *arguments: str, profile: str = PROFILE) -> subprocess.Popen[str]:
    """Start Snakemake in a process group of its own, both outputs in ``stdout``."""
    command = [sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/slurm", *OPTIONS]
    return subprocess.Popen(
        [*command, *arguments, "--configfile", profile],
        cwd=project,
        env={**os.environ, "LPSTEPS_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], seconds: float = SECONDS) -> str:
    """Return the output when the process has ended; end it with all its children after a time.

    Snakemake does not end on a first SIGTERM while it waits for a job whose end it cannot see.
    """
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"no end after {seconds} s:\n{output}") from None
    return output


def run_on_slurm(project: Path, *arguments: str, profile: str = PROFILE) -> str:
    """Run Snakemake to its successful end and return its output."""
    process = start_on_slurm(project, *arguments, profile=profile)
    output = wait_for(process)
    assert process.returncode == 0, output
    return output


def slurm_jobs() -> dict[int, dict[str, str]]:
    """What Slurm knows of each job that it has run or will run."""
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "jobs"], capture_output=True, text=True, timeout=30
    )
    jobs = {}
    for line in shown.stdout.splitlines():
        fields = dict(field.partition("=")[::2] for field in line.split() if "=" in field)
        if "JobId" in fields:
            jobs[int(fields["JobId"])] = fields
    return jobs
