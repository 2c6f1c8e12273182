"""What all rules share: the checked config, code digests, the environment digest, name patterns."""

import json
import os
import re
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from snakemake.logging import logger

from lpsteps import job_resources, program, run_summary
from lpsteps import jobs
from lpsteps.config import load_config, read_yaml
from lpsteps.errors import LpstepsError
from lpsteps.export import planning as exports
from lpsteps.fingerprint import closure, environment_digest, package_digests
from lpsteps.moments import MOMENTS_KINDS
from lpsteps.provenance import RECORD_SUFFIX
from lpsteps.recovery.base import moments_kind

jobs.run_programs_of(workflow.basedir)

try:
    # Snakemake has read them, too, but of a key that is there twice it kept the last one.
    for path in workflow.configfiles:
        read_yaml(Path(os.path.relpath(path)))
    CONFIG = load_config(
        config, [os.path.relpath(path) for path in workflow.configfiles]
    )
    ENVIRONMENT = environment_digest(Path(workflow.basedir) / "requirements.lock")
except LpstepsError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(1)


# A model uses all cores of the machine by itself, so that results do not depend on --cores, and
# two such jobs at a time would only be in each other's way.
ALL_CORES = job_resources.model_threads(
    workflow.resource_settings.cores, workflow.resource_settings.max_threads
)

# Dear and deterministic results are shared between working copies, if Snakemake runs with --cache.
SHARED = workflow.workflow_settings.cache is not None
if SHARED:
    # Code must not change between planning, which chooses the place of a result in the cache, and
    # the job. The first Snakemake of a run plans; those that it starts for single jobs do not.
    os.environ.setdefault(program.PLANNED_CODE, json.dumps(package_digests()))

SHORT_JOB_MB = 1500
SHORT_JOB = job_resources.short_job(SHORT_JOB_MB)
# Where these jobs are one job of a cluster, its profile lets them run one after the other: that job
# then asks for the memory and the cores of the largest of them, and not of all together.
PLAN_JOB = {"plan_jobs": 1}


def model_job(megabytes, **conditions):
    """What a job that runs a model asks for, see lpsteps.job_resources.model_job."""
    return job_resources.model_job(CONFIG, megabytes, **conditions)


@cache
def code(*modules):
    """Digest of everything in the package that these modules import."""
    return closure(modules)


def record(path):
    """The provenance record that a step writes beside an output.

    Records name paths. Rules whose outputs Snakemake can share between working copies (`cache`) have
    a param `place`, so that two entries with equal settings do not share one.
    """
    return f"{path}{RECORD_SUFFIX}"


def alternatives(names):
    """A pattern that matches these names and no other."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def options(files, *names):
    """Command-line options `--name path` for those of a job's files that it has."""
    return " ".join(f"--{name} {files[name]}" for name in names if name in files)


def dataset_inputs(wildcards):
    """The archive that holds the dataset, the local files, or nothing when it is on the hub."""
    archive = jobs.archive_of_dataset(CONFIG, wildcards.dataset)
    files = (
        {"archive": f"resources/archives/{archive}/manifest.json"} if archive else {}
    )
    local = jobs.local_files(CONFIG, wildcards.dataset)
    return {**files, **({"local": local} if local else {})}


def calibration_inputs(wildcards, needs):
    """What a selection or a recovery reads of the calibration: statistics, or the text."""
    files = {}
    if "statistics" in needs:
        files["stats"] = (
            f"results/{wildcards.model}/calibration/{wildcards.calibration}/stats.parquet"
        )
    if "model" in needs:
        files["compute"] = f"results/{wildcards.model}/compute.json"
        files["windows"] = jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        )
    return files


def selection_inputs(wildcards):
    """Statistics, or the model itself, or nothing: what the selection's metric needs."""
    needs = jobs.selection_needs(CONFIG, wildcards.selection)
    files = calibration_inputs(wildcards, needs)
    if "model" in needs:
        files["model"] = f"resources/models/{wildcards.model}/manifest.json"
    return files


def plan_of(wildcards):
    """The plan of a job that reads one."""
    return jobs.Variant(
        wildcards.model, wildcards.calibration, wildcards.selection, int(wildcards.n)
    )


def recovery_inputs(wildcards):
    """Statistics, moments, text or nothing: what the recovery's method needs beside the model."""
    needs = jobs.recovery_needs(CONFIG, wildcards.recovery)
    files = calibration_inputs(wildcards, needs)
    kind = moments_kind(needs)
    if kind is not None:
        files["moments"] = (
            f"{plan_of(wildcards).plan_folder}/moments/{kind}.manifest.json"
        )
    return files


def training_inputs(wildcards):
    """The patch to start from, and the stored targets where there are any."""
    plan = plan_of(wildcards)
    start = jobs.distilled(CONFIG, wildcards.recovery).start
    teacher = jobs.teacher_manifest(CONFIG, plan, wildcards.recovery)
    return {
        "start": f"{plan.plan_folder}/{start}/patch.manifest.json",
        **({"teacher": teacher} if teacher else {}),
    }


def stored_targets(wildcards):
    """A store of targets whose size can be measured, where the profile has one."""
    store = jobs.stored_targets(CONFIG, wildcards.model)
    return {"store": store} if store else {}


def training_text(wildcards, part):
    """`{corpus: windows}` of a part of the training text, `fit` or `heldout`."""
    sources = getattr(jobs.training_text(CONFIG), part)
    return jobs.training_files(wildcards.model, sources)


# The step program's option for each benchmark's data.
DATA_OPTION = {"perplexity": "windows", "harness": "data"}


def variant_inputs(wildcards):
    """The plan and the patch, or what stays of the width; nothing for the dense model."""
    variant = jobs.Variant.from_lineage(wildcards.model, wildcards.lineage)
    if not variant.n:
        return {}
    if variant.width:
        return {"width-manifest": f"{variant.folder}/width.manifest.json"}
    manifest = f"{variant.folder}/patch.manifest.json"
    return {
        "plan": f"{variant.plan_folder}/plan.json",
        "patch-manifest": manifest,
    }


def named_options(option, files):
    """Command-line options `--option name=path` for each of the files."""
    return " ".join(f"--{option} {name}={path}" for name, path in files.items())


# Headings in `snakemake --report`.
PAPER, OWN = "Of the paper", "Of our own"


def table_in_report(table):
    """The CSV file of a table, flagged for `snakemake --report`."""
    printed = f"reports/published/{table}.csv" in jobs.published_files(CONFIG)
    return report(
        f"reports/tables/{table}.csv",
        caption="../report/table.rst",
        category="Tables",
        subcategory=PAPER if printed else OWN,
        labels={
            "table": table,
            "title": CONFIG.tables[table].title,
            "models": ", ".join(CONFIG.profile.tables[table]),
        },
    )


def figure_in_report(figure):
    """The CSV file of a figure, flagged for `snakemake --report`."""
    return report(
        f"reports/figures/{figure}.csv",
        caption="../report/figure.rst",
        category="Figures",
        subcategory=OWN if CONFIG.figures[figure].number is None else PAPER,
        labels={
            "figure": figure,
            "title": CONFIG.figures[figure].title,
            "models": ", ".join(CONFIG.profile.figures[figure]),
        },
    )


wildcard_constraints:
    archive=alternatives(CONFIG.definitions.archives),
    model=alternatives(CONFIG.definitions.models),
    dataset=alternatives(CONFIG.definitions.datasets),
    corpus=alternatives(CONFIG.definitions.corpora),
    split=r"[A-Za-z0-9_-]+",
    calibration=alternatives(CONFIG.definitions.calibrations),
    selection=alternatives(CONFIG.definitions.selections),
    n=r"\d+",
    moments=alternatives(MOMENTS_KINDS),
    recovery=alternatives(CONFIG.definitions.recoveries),
    start=alternatives(jobs.method_recoveries(CONFIG)),
    width=alternatives(CONFIG.definitions.width_prunings),
    lineage=r"dense|calibration/[^/]+/(selection/[^/]+/n\d+/[^/]+|width/[^/]+/n\d+)",


def exported_variant(wildcards):
    """The variant that a job exports."""
    return jobs.Variant.from_lineage(wildcards.model, wildcards.lineage)


def exported_scores(wildcards):
    """`{benchmark: file}` of the scores that the model card shows."""
    return exports.score_files(CONFIG, exported_variant(wildcards))


def exported_dense_scores(wildcards):
    """`{benchmark: file}` of the dense model's scores beside them."""
    return exports.dense_score_files(CONFIG, exported_variant(wildcards))


def modeling_inputs(wildcards):
    """The source of the model class that the checkpoint may have to bring along."""
    source = exports.modeling_file(exported_variant(wildcards))
    return {"modeling": source} if source else {}
