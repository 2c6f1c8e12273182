"""The workflow through a real Slurm: the same bytes as without, whatever happens on the way.

Run with `make test-slurm`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cluster import run_on_slurm, slurm_jobs, start_on_slurm, wait_for
from project import PROFILE, profile, snakemake, write_yaml

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]

PAGE = "reports/tables.html"
STATISTICS = "results/tiny/calibration/wikipedia/stats.parquet"
SMALL = "config/small.yaml"
PLAN_JOB = "rule_plan_tiny_calibrate_choose_layers_rank_layers"
PAYLOADS = (".json", ".parquet", ".safetensors", ".csv", ".html")
UNFINISHED = {"PENDING", "RUNNING", "COMPLETING"}
Edit = Callable[[Path, str, str], None]


def payloads(project: Path) -> dict[str, bytes]:
    """All files that a run makes, but for records and logs, which hold times."""
    folders = [project / name for name in ("results", "reports/tables", "reports/figures")]
    paths = [path for folder in folders for path in sorted(folder.rglob("*"))]
    paths += [project / PAGE, project / "reports/tables.json"]
    return {
        str(path.relative_to(project)): path.read_bytes()
        for path in paths
        if path.suffix in PAYLOADS and not path.name.endswith(".record.json")
    }


def small_profile(project: Path) -> str:
    """One table with a distillation, in a fraction of the time."""
    content = {**profile(), "tables": {"table06": {"tiny": [2]}}, "figures": {}}
    write_yaml(project / SMALL, content)
    return SMALL


def submitted(output: str) -> list[int]:
    """Numbers of the Slurm jobs that a run has submitted."""
    return [int(number) for number in re.findall(r"submitted with SLURM jobid (\d+)", output)]


def wait_for_ends(jobs: list[int], seconds: float) -> set[str]:
    """Return the states of jobs, when all have ended or after a time."""
    deadline = time.monotonic() + seconds
    while (states := {slurm_jobs()[job]["JobState"] for job in jobs}) & UNFINISHED:
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return states


def test_a_page_has_the_same_bytes_as_without_slurm(local: Path, copy: Path):
    output = run_on_slurm(copy, PAGE)
    expected = payloads(local)
    assert len(expected) > 60 and PAGE in expected
    made = payloads(copy)
    assert made.keys() == expected.keys()
    assert [name for name in expected if made[name] != expected[name]] == []
    assert {slurm_jobs()[job]["JobState"] for job in submitted(output)} == {"COMPLETED"}
    # Downloads need a network, which the nodes of a cluster may lack.
    assert not re.search(r"logs/slurm/rule_fetch", output)
    assert "Nothing to be done" in snakemake(copy, "-n", PAGE).stdout


def test_statistics_rankings_and_plans_of_a_model_are_one_slurm_job(copy: Path):
    plan = "results/tiny/calibration/wikipedia/selection/{}/n2/plan.json"
    plans = [plan.format(name) for name in ("shortgpt", "llm-streamline")]
    output = run_on_slurm(copy, *plans)
    names = [slurm_jobs()[job]["Comment"] for job in submitted(output)]
    assert names.count(PLAN_JOB) == 1
    assert not any(re.match(r"rule_(rank|choose)_layers", name) for name in names)
    # They run one after the other, so that it asks for no more cores than one of them.
    plan_job = slurm_jobs()[submitted(output)[names.index(PLAN_JOB)]]
    assert plan_job["NumCPUs"] == "1"
    assert all((copy / path).is_file() for path in plans)


def test_a_job_killed_for_memory_is_tried_again_with_more(
    fresh: Path, copy: Path, edit: Edit, tmp_path: Path
):
    """The job asks for less than Python needs to load torch; twice or three times that is enough."""
    other = tmp_path / "local"
    shutil.copytree(fresh, other, symlinks=True)
    assert snakemake(other, STATISTICS).returncode == 0
    edit(copy / "lpsteps/jobs/memory.py", "return 2500 + config", "return 400 + config")
    output = run_on_slurm(copy, STATISTICS)
    jobs = slurm_jobs()
    attempts = [number for number in submitted(output) if "calibrate" in jobs[number]["Comment"]]
    memory = [jobs[number]["MinMemoryNode"] for number in attempts]
    assert len(attempts) > 1 and memory == [f"{400 * n}M" for n in range(1, len(attempts) + 1)]
    states = [jobs[number]["JobState"] for number in attempts]
    assert "COMPLETED" not in states[:-1] and states[-1] == "COMPLETED"
    log = copy / f"logs/slurm/group_plan_tiny_calibrate/{attempts[0]}.log"
    assert "Exceeded job memory limit" in log.read_text()
    assert (copy / STATISTICS).read_bytes() == (other / STATISTICS).read_bytes()


def test_a_cancelled_run_ends_its_jobs_and_goes_on_later(fresh: Path, copy: Path, tmp_path: Path):
    other = tmp_path / "local"
    shutil.copytree(fresh, other, symlinks=True)
    for project in (copy, other):
        small_profile(project)
    assert snakemake(other, PAGE, profile=SMALL).returncode == 0
    process = start_on_slurm(copy, PAGE, profile=SMALL)
    deadline = time.monotonic() + 1800
    # A score of a pruned variant: the statistics, and the Slurm job that they came from, are done.
    pruned = copy / "results/tiny/calibration"
    while not list(pruned.rglob("scores/*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    output = wait_for(process, 600)
    assert process.returncode != 0
    states = wait_for_ends(submitted(output), 60)
    assert "COMPLETED" in states and not states & UNFINISHED
    assert not list(copy.rglob(".partial-*"))
    done = {path: path.stat().st_mtime_ns for path in (copy / "results").rglob("stats.parquet")}
    assert done
    run_on_slurm(copy, PAGE, profile=SMALL)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    expected, made = payloads(other), payloads(copy)
    assert made.keys() == expected.keys() and len(made) > 20
    assert [name for name in made if made[name] != expected[name]] == []


@pytest.mark.parametrize(
    ("gpus", "gres", "asked", "visible"),
    [(1, None, "gres:gpu:1", "0"), (1, "gpu", "gres:gpu:1", "0"), (0, None, None, None)],
    ids=["gpu", "gres", "none"],
)
def test_a_job_sees_the_gpus_that_its_model_asks_for(
    copy: Path, edit: Edit, gpus: int, gres: str | None, asked: str | None, visible: str | None
):
    definitions = copy / "config/tiny_definitions.yaml"
    content = yaml.safe_load(definitions.read_text())
    content["models"]["tiny"]["gpus"] = gpus
    write_yaml(definitions, content)
    write_yaml(copy / PROFILE, {**profile(), "gpu_gres": gres})
    edit(
        copy / "lpsteps/steps/choose_dtype.py",
        "    threads = configure_torch()\n",
        "    import os\n"
        '    step.logger.info("visible: %s", os.environ.get("CUDA_VISIBLE_DEVICES"))\n'
        "    threads = configure_torch()\n",
    )
    output = run_on_slurm(copy, "results/tiny/compute.json")
    (number,) = submitted(output)
    job = slurm_jobs()[number]
    requests = [job[key] for key in ("TresPerJob", "TresPerNode") if key in job]
    assert requests == ([] if asked is None else [asked])
    assert f"visible: {visible}" in (copy / "logs/choose_dtype/tiny.log").read_text()
