"""What jobs ask a cluster for."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from lpsteps import job_resources, jobs
from lpsteps.config import Config, load_config
from lpsteps.errors import LpstepsError
from lpsteps.program import THREADS

ROOT = Path(__file__).parents[2]
SMALL, LARGE = SimpleNamespace(model="smollm2-135m"), SimpleNamespace(model="llama-2-13b")


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config(**changes: Any) -> Config:
    profile = yaml.safe_load(Path("config/config.yaml").read_text())
    return load_config({**profile, **changes}, ["config/config.yaml"])


def request_for(config: Config) -> dict[str, job_resources.Request]:
    return job_resources.model_job(
        config, lambda wildcards: jobs.memory_mb(config, wildcards.model)
    )


def test_a_larger_model_gets_more_memory_and_time_and_a_gpu():
    request = request_for(config())
    assert request["mem_mb"](SMALL, 1) == 2500 + 538 and request["mem_mb"](LARGE, 1) == 2500 + 52063
    assert request["runtime"](SMALL, 1) == 30 + 8 and request["runtime"](LARGE, 1) == 30 + 780
    assert request["gpu"](SMALL) is None and request["gpu"](LARGE) == 1
    assert "gres" not in request


@pytest.mark.parametrize(
    ("cores", "max_threads", "threads"), [(2, None, 2), (2, 16, 2), (None, 16, 16), (None, None, 8)]
)
def test_a_model_gets_several_cores_wherever_it_runs(
    cores: int | None, max_threads: int | None, threads: int
):
    assert job_resources.model_threads(cores, max_threads) == threads


def test_each_attempt_gets_as_much_again():
    request = request_for(config())
    for name in ("mem_mb", "runtime"):
        first = request[name](LARGE, 1)
        assert [request[name](LARGE, attempt) for attempt in (2, 3)] == [2 * first, 3 * first]
    short = job_resources.short_job(1500)
    assert [short["mem_mb"](SMALL, attempt) for attempt in (1, 2)] == [1500, 3000]
    assert [short["runtime"](LARGE, attempt) for attempt in (1, 3)] == [30, 90]


@pytest.mark.parametrize("name", ["mem_mb", "runtime"])
def test_snakemake_can_tell_that_the_attempt_is_wanted(name: str):
    """It passes an argument to those functions that have one of its name."""
    for request in (request_for(config()), job_resources.short_job(1)):
        assert list(inspect.signature(request[name]).parameters) == ["wildcards", "attempt"]


@pytest.mark.parametrize("name", ["gpu", "gpu:a100"])
def test_gpus_by_the_name_of_the_cluster(name: str):
    request = request_for(config(gpu_gres=name))
    assert request["gres"](LARGE) == f"{name}:1" and request["gres"](SMALL) is None
    assert "gpu" not in request


def test_gpus_of_one_job_are_in_one_machine():
    request = request_for(config())
    assert request["nodes"](LARGE) == 1 and request["nodes"](SMALL) is None


def test_a_job_that_does_not_run_its_model_is_short_and_needs_no_gpu():
    request = job_resources.model_job(config(), lambda wildcards: 1000, lambda wildcards: False)
    assert request["runtime"](LARGE, 1) == 30 and request["gpu"](LARGE) is None


@pytest.mark.parametrize("name", ["gpu:a100:1:2", "gpu 1", "", "-gpu"])
def test_a_mistyped_resource_of_slurm_is_one_line(name: str):
    with pytest.raises(LpstepsError, match=r"^config/config.yaml: gpu_gres: .*") as error:
        config(gpu_gres=name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_the_profiles_for_clusters_group_rules_that_there_are(profile: str):
    """Snakemake says nothing about a group for a rule that it does not know."""
    content = yaml.safe_load(Path(f"workflow/profiles/{profile}/config.yaml").read_text())
    groups = content["groups"]
    rules = "".join(path.read_text() for path in Path("workflow/rules").glob("*.smk"))
    # Rankings join their plans, see the test of groups.
    assert groups.keys() == {"calibrate", "choose_layers"}
    assert all(f"\nrule {name}:\n" in rules for name in groups)


def test_every_rule_asks_for_memory_and_time_or_runs_where_snakemake_does():
    """What a rule does not ask for, a cluster gives by a default that may be too little."""
    local = Path("Snakefile").read_text().partition("\nlocalrules:\n")[2].split("\n\n")[0]
    for path in Path("workflow/rules").glob("*.smk"):
        for rule in re.split(r"\n *rule (?=\w*:\n)|\n *rule:\n", path.read_text())[1:]:
            name = rule.partition(":")[0].strip()
            asks = "        mem_mb=" in rule and "        runtime=" in rule
            assert asks or "**model_job(" in rule or "**SHORT_JOB" in rule or f" {name}," in local


def test_a_request_is_part_of_no_setting():
    """Snakemake compares settings: asking for something else must not run anything again."""
    plain, changed = config(), config(gpu_gres="gpu:a100")
    models = changed.definitions.models
    models["smollm2-135m"] = models["smollm2-135m"].model_copy(update={"gpus": 4})
    assert models["smollm2-135m"].gpus == 4 and plain.definitions.models["smollm2-135m"].gpus == 0
    for settings in (
        jobs.build_tables_spec,
        lambda c: jobs.convert_model_spec(c, "smollm2-135m"),
        lambda c: jobs.calibrate_spec(c, "wikipedia"),
        lambda c: jobs.evaluate_spec(c, "smollm2-135m", "dense", "qa"),
        lambda c: jobs.rank_layers_spec(c, "smollm2-135m", "wikipedia", "sleb"),
        lambda c: jobs.distill_spec(c, "linearpatch+ft"),
    ):
        assert settings(plain) == settings(changed)


@pytest.mark.parametrize(
    ("wanted", "cores", "told"),
    [(None, 8, "8"), ("", 8, "8"), ("2", 8, "2"), ("64", 8, "8"), ("many", 8, "many")],
)
def test_threads_of_a_job_are_not_more_than_its_cores(
    wanted: str | None, cores: int, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(THREADS, wanted or "")
    if wanted is None:
        monkeypatch.delenv(THREADS)
    job_resources.limit_threads(cores)
    assert os.environ[THREADS] == told
