"""The workflow through Snakemake's executor for Kubernetes and a store of objects.

The cluster is this machine: see pods.py. Run with `make test-kubernetes`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from project import write_yaml
from stored_run import PAGE, Runner

pytestmark = pytest.mark.slow

PAYLOADS = (".json", ".parquet", ".safetensors", ".csv", ".html")
COMPUTE = "results/tiny/compute.json"


def payloads(files: dict[str, bytes]) -> dict[str, bytes]:
    """What a run makes, but for records and logs, which hold times."""
    return {
        name: content
        for name, content in files.items()
        if name.endswith(PAYLOADS)
        and not name.endswith(".record.json")
        and name.startswith(("resources/", "results/", "reports/"))
        and not name.startswith(("reports/published", "reports/templates"))
    }


def test_a_page_has_the_same_bytes_as_on_one_machine(local: Path, finished: tuple[Runner, str]):
    runner, output = finished
    assert f"The page: {runner.address}/{PAGE}" in output
    made = {name: file for name, file in payloads(runner.stored()).items() if ".files/" not in name}
    names = [str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()]
    expected = payloads({name: (local / name).read_bytes() for name in names})
    assert PAGE in expected and len(made) > 40
    assert [name for name in made if made[name] != expected.get(name)] == []
    # What manifests speak for lies in folders beside theirs, and nothing is left out.
    travelled = {
        name.replace(".files/", "/"): file
        for name, file in payloads(runner.stored()).items()
        if ".files/" in name
    }
    assert {name: expected[name] for name in expected.keys() - made.keys()} == travelled
    assert any("/teacher/" in name for name in travelled)
    assert "resources/models/tiny/model.safetensors" in travelled


def test_downloads_and_the_page_are_made_where_snakemake_runs(finished: tuple[Runner, str]):
    commands = " ".join(pod.command for pod in finished[0].cluster.pods)
    for rule in ("store_teacher", "distill", "prune_width", "measure_moments", "evaluate_qa"):
        assert rule in commands
    assert "fetch_" not in commands
    assert "render_report" not in commands


def test_statistics_rankings_and_plans_of_a_model_are_one_pod(finished: tuple[Runner, str]):
    pods = [pod for pod in finished[0].cluster.pods if "choose_layers" in pod.command]
    (pod,) = [
        pod for pod in pods if "--allowed-rules" in pod.command and "calibrate" in pod.command
    ]
    assert pod.limits["cpu"] == "1000m"


def test_nothing_is_left_to_do(finished: tuple[Runner, str]):
    assert "Nothing to be done" in finished[0].run("-n", PAGE)


def test_results_that_were_fetched_can_be_audited_and_gone_on_with(
    finished: tuple[Runner, str], fresh: Path, tmp_path: Path
):
    project = tmp_path / "project"
    subprocess.run(["git", "clone", "-q", fresh, project], check=True)
    for name, content in finished[0].stored().items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)

    def audit() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lpsteps.cli", "audit"]
        return subprocess.run(command, cwd=project, capture_output=True, text=True)

    verified = audit()
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "everything verifies" in verified.stdout
    weights = project / "resources/models/tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "model.safetensors: was changed" in audit().stdout


def test_a_pod_that_fails_ends_the_run_and_the_same_command_goes_on(runner: Runner):
    """The executor asks for the log of an earlier start of the pod, which Kubernetes has not."""
    attempts = []

    def ended_once(command: str) -> str:
        attempts.append(command)
        return "exit 137" if len(attempts) == 1 else command

    runner.cluster.before = ended_once
    process = runner.start(COMPUTE)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert f'in pod \\"{runner.cluster.pods[0].name}\\" not found' in output
    assert COMPUTE not in runner.stored()
    more = runner.run(COMPUTE, "--set-resources", "choose_dtype:mem_mb=4000")
    assert "Finished jobid: 0 (Rule: choose_dtype)" in more
    assert "fetch_model" not in more
    first, second = (pod.limits["memory"] for pod in runner.cluster.pods)
    assert (first, second) == ("1500M", "4000M")
    assert COMPUTE in runner.stored()


def test_a_pod_gets_the_gpu_that_its_model_asks_for(runner: Runner):
    definitions = runner.project / "config/tiny_definitions.yaml"
    content = yaml.safe_load(definitions.read_text())
    content["models"]["tiny"]["gpus"] = 1
    write_yaml(definitions, content)
    runner.run(COMPUTE)
    (pod,) = runner.cluster.pods
    assert pod.limits["nvidia.com/gpu"] == "1"


def test_a_used_clone_and_files_unknown_to_git_are_refused(runner: Runner):
    table = runner.project / "reports/tables/mine.yaml"
    table.touch()
    process = runner.start("-n", COMPUTE)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "error: reports/tables/mine.yaml: jobs get the files that git knows" in output
    table.unlink()
    (runner.project / "results").mkdir()
    (runner.project / "results/mine.json").touch()
    process = runner.start("-n", COMPUTE)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "error: results: has results of runs on this machine" in output
    assert (runner.project / "results/mine.json").exists()
