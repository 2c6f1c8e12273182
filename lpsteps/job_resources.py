"""What a job asks a cluster for: cores, memory, time and GPUs, most of it from its model's size.

A local run heeds of it what `--resources` limits. Nothing here is part of a job's settings, so that
a changed request reruns nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lpsteps.config import Config
from lpsteps.program import THREADS

Amount = Callable[[Any], int]
"""From a job's wildcards to how much it needs of something."""

Request = Callable[..., Any]
"""A function of `wildcards`, or of `wildcards` and `attempt`, as Snakemake takes for a resource."""

UNKNOWN_CORES = 8
"""Cores for a model on a cluster whose profile says nothing of them."""

SHORT_JOB_MINUTES = 30
MINUTES_PER_BILLION_PARAMETERS = 60


def per_attempt(amount: Amount) -> Request:
    """Return a request for as much at the first attempt, twice as much at the second, and so on.

    A job that its cluster stopped because it needed more gets that when it is tried again. Where
    there are no retries, `attempt` is always 1.
    """

    # Snakemake tells by the names of the arguments what a function wants to know.
    def request(wildcards: Any, attempt: int) -> int:
        return attempt * amount(wildcards)

    return request


def model_threads(cores: int | None, max_threads: int | None) -> int:
    """Return how many cores a job that runs a model asks for.

    Args:
        cores: Those of the machine that Snakemake may use; None on a cluster.
        max_threads: The most that a job may ask for, where Snakemake was told.
    """
    return cores or max_threads or UNKNOWN_CORES


def limit_threads(cores: int) -> None:
    """Tell jobs how many threads to use, where a machine has more cores than its job may have.

    What the user has set stays, if it is less or no number, which the steps refuse.

    Args:
        cores: Those that a job asks for.
    """
    wanted = os.environ.get(THREADS) or str(cores)
    os.environ[THREADS] = str(min(int(wanted), cores)) if wanted.isdecimal() else wanted


def model_minutes(config: Config, model: str) -> int:
    """Return the time limit in minutes of a job that goes through a model's weights or runs it.

    It is a limit, not an estimate, as the speed of the cluster's machines is not known here.
    """
    parameters = config.definitions.models[model].parameters
    return SHORT_JOB_MINUTES + MINUTES_PER_BILLION_PARAMETERS * parameters // 10**9


def short_job(megabytes: int) -> dict[str, Request]:
    """Return the requests of a job that ends in minutes whatever the model's size is.

    Args:
        megabytes: Memory at the first attempt.
    """
    return {
        "mem_mb": per_attempt(lambda wildcards: megabytes),
        "runtime": per_attempt(lambda wildcards: SHORT_JOB_MINUTES),
    }


def model_job(
    config: Config, megabytes: Amount, runs_model: Callable[[Any], bool] = lambda wildcards: True
) -> dict[str, Request]:
    """Return the requests of a job that runs the model named by its wildcard `model`.

    Args:
        config: The config.
        megabytes: Memory at the first attempt.
        runs_model: Whether a job does run it; one that does not is short and asks for no GPU.

    Returns:
        `mem_mb`, `runtime` in minutes, and the GPUs: their number as `gpu`, or a string `gres` as
        Slurm's option `--gres` takes it where the config names one, with `nodes` for one machine.
    """

    def minutes(wildcards: Any) -> int:
        if runs_model(wildcards):
            return model_minutes(config, wildcards.model)
        return SHORT_JOB_MINUTES

    # None is no request at all; some executors take 0 for one.
    def gpus(wildcards: Any) -> int | None:
        count = config.definitions.models[wildcards.model].gpus if runs_model(wildcards) else 0
        return count or None

    name = config.profile.gpu_gres

    def gres(wildcards: Any) -> str | None:
        count = gpus(wildcards)
        return None if count is None else f"{name}:{count}"

    # A model is spread over the GPUs of one machine, and of no other.
    def nodes(wildcards: Any) -> int | None:
        return None if gpus(wildcards) is None else 1

    return {
        "mem_mb": per_attempt(megabytes),
        "runtime": per_attempt(minutes),
        **({"gpu": gpus} if name is None else {"gres": gres}),
        "nodes": nodes,
    }
