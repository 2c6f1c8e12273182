"""What all rules share: the checked config, code digests, the environment digest, name patterns."""

import json
import os
import re
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from snakemake.io import is_flagged
from snakemake.logging import logger

from lpsteps import job_resources, object_storage, program, provenance, run_summary
from lpsteps import jobs, paths
from lpsteps.config import load_config, read_yaml
from lpsteps.errors import LpstepsError
from lpsteps.export import planning as exports
from lpsteps.fingerprint import closure, environment_digest, package_digests
from lpsteps.garbage_collection import collect_rarely
from lpsteps.moments import MOMENTS_KINDS
from lpsteps.provenance import RECORD_SUFFIX
from lpsteps.recovery.base import moments_kind

# Planning ten thousand jobs takes a third less time (make bench-pipeline).
collect_rarely()

jobs.run_programs_of(workflow.basedir)

try:
    # Snakemake has read them, too, but of a key that is there twice it kept the last one.
    for path in workflow.configfiles:
        read_yaml(Path(os.path.relpath(path)))
    CONFIG = load_config(
        config,
        [os.path.relpath(path) for path in workflow.configfiles],
        overrides=dict(workflow.config_settings.config),
    )
    ENVIRONMENT = environment_digest(Path(workflow.basedir) / "requirements.lock")
except LpstepsError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(1)


# Jobs of a cluster read the config again. Snakemake takes down the settings that it planned with, so
# an edit meanwhile would give results that count as those of the config before it.
SETTINGS = CONFIG.digest()
if os.environ.setdefault(program.PLANNED_SETTINGS, SETTINGS) != SETTINGS:
    print(
        f"error: {CONFIG.source}: the config, or a file that it names, changed since this run was "
        "planned; run the command again",
        file=sys.stderr,
    )
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

# With a default storage provider, as in a Kubernetes cluster, jobs share no folder: each has the
# sources and what its rule declares.
STORED = workflow.storage_settings.default_storage_provider is not None
if STORED:
    stored_file = workflow.modifier.modify_path("manifest.json")
    try:
        if provenance.GIT_STATE not in os.environ:
            object_storage.check_sources()
        object_storage.use(Path(stored_file).parent)
    except LpstepsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1)
    # Jobs have no checkout, and nothing tells them how many cores of their machine are theirs.
    os.environ.setdefault(
        provenance.GIT_STATE, json.dumps(provenance.git_state(Path(workflow.basedir)))
    )
    job_resources.limit_threads(ALL_CORES)
    workflow.register_envvars(provenance.GIT_STATE, program.THREADS)

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


def beside(*files):
    """What jobs read beside the manifests among these, where Snakemake has to bring it along."""
    found = [object_storage.undeclared(Path(path)) for path in files] if STORED else []
    return [str(path) for path in found if path is not None]


def made_beside(manifest):
    """The folder of a manifest's files as an output, by its name."""
    return {"files": directory(*beside(manifest))} if STORED else {}


def made_from(path):
    """The files that a job of the workflow makes a file from, none if no job makes it."""
    stored = workflow.modifier.modify_path(path)
    for entry in workflow.rules:
        if entry.is_producer(stored):
            files, *_ = entry.expand_input(entry.get_wildcards(stored))
            return object_storage.project_paths(
                [file for file in files if not is_flagged(file, "local")]
            )
    return []


def behind(files):
    """All files that some were made from and the records of all, where Snakemake has to bring them.

    On one machine the step that follows the records finds them by itself. What manifests speak for
    is left out: the jobs that read it have compared it with them.
    """
    found, pending = set(), list(files) if STORED else []
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += made_from(path)
    made = {path for path in found if not path.endswith(object_storage.SUFFIX)}
    return sorted(made | {record(path) for path in made if made_from(path)})


MODEL = "resources/models/{model}/manifest.json"
COMPUTE = paths.compute("{model}")
PLAN_FOLDER = paths.plan_folder("{model}", "{calibration}", "{selection}", "{n}")
VARIANT_FOLDER = paths.lineage_folder("{model}", "{lineage}")


def alternatives(names):
    """A pattern that matches these names and no other."""
    return "|".join(re.escape(name) for name in sorted({*names})) or "(?!)"


def options(files, *names):
    """Command-line options `--name path` for those of a job's files that it has."""
    return " ".join(f"--{name} {files[name]}" for name in names if name in files)


def archive_of_model(wildcards):
    """The archive that holds the model."""
    archive = jobs.archive_of_model(CONFIG, wildcards.model)
    return f"resources/archives/{archive}/manifest.json"


def dataset_inputs(wildcards):
    """The archive that holds the dataset, the local files, or nothing when it is on the hub."""
    archive = jobs.archive_of_dataset(CONFIG, wildcards.dataset)
    own = jobs.local_files(CONFIG, wildcards.dataset)
    files = {"local": local(own)} if own else {}
    if archive:
        files["archive"] = f"resources/archives/{archive}/manifest.json"
        files["archive_files"] = beside(files["archive"])
    return files


def calibration_inputs(wildcards, needs):
    """What a selection or a recovery reads of the calibration: statistics, or the text."""
    files = {}
    if "statistics" in needs:
        files["stats"] = paths.statistics(wildcards.model, wildcards.calibration)
    if "model" in needs:
        files["compute"] = paths.compute(wildcards.model)
        files["windows"] = jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        )
    return files


def group_of_ranking(wildcards):
    """The group of a ranking in a cluster: that of the plans, or none where it runs the model.

    Jobs of one group must ask for the same kind of GPUs, and a ranking from statistics asks for none.
    """
    group = workflow.group_settings.overwrite_groups.get("choose_layers")
    if group is None or "model" in jobs.selection_needs(CONFIG, wildcards.selection):
        return None
    return group.format(**dict(wildcards))


def selection_inputs(wildcards):
    """Statistics, or the model itself, or nothing: what the selection's metric needs."""
    needs = jobs.selection_needs(CONFIG, wildcards.selection)
    files = calibration_inputs(wildcards, needs)
    if "model" in needs:
        files["model"] = f"resources/models/{wildcards.model}/manifest.json"
        files["model_files"] = beside(files["model"])
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
        files["moments"] = paths.moments(plan_of(wildcards).plan_folder, kind)
        files["moments_files"] = beside(files["moments"])
    return files


def training_inputs(wildcards):
    """The patch to start from, and the stored targets where there are any."""
    plan = plan_of(wildcards)
    name = jobs.distilled(CONFIG, wildcards.recovery).start
    start = paths.patch(paths.repaired_folder(plan.plan_folder, name))
    teacher = jobs.teacher_manifest(CONFIG, plan, wildcards.recovery)
    return {
        "start": start,
        "start_files": beside(start),
        **({"teacher": teacher, "teacher_files": beside(teacher)} if teacher else {}),
    }


def stored_targets(wildcards):
    """A store of targets whose size can be measured, where the profile has one."""
    store = jobs.stored_targets(CONFIG, wildcards.model)
    return {"store": store, "store_files": beside(store)} if store else {}


def training_text(wildcards, part):
    """`{corpus: windows}` of a part of the training text, `fit` or `heldout`."""
    sources = getattr(jobs.training_text(CONFIG), part)
    return jobs.training_files(wildcards.model, sources)


# The step programs' options for what makes a variant.
VARIANT_OPTIONS = ("plan", "patch-manifest", "width-manifest")

# The step program's option for each benchmark's data.
DATA_OPTION = {"perplexity": "windows", "harness": "data"}


def variant_inputs(wildcards):
    """The plan and the patch, or what stays of the width; nothing for the dense model."""
    variant = jobs.Variant.from_lineage(wildcards.model, wildcards.lineage)
    if not variant.n:
        return {}
    if variant.width:
        manifest = paths.width(variant.folder)
        return {"width-manifest": manifest, "width_files": beside(manifest)}
    manifest = paths.patch(variant.folder)
    return {
        "plan": paths.plan(variant.plan_folder),
        "patch-manifest": manifest,
        "patch_files": beside(manifest),
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
    split=alternatives(
        name
        for corpus in CONFIG.definitions.corpora.values()
        for name in corpus.partitions
    ),
    calibration=alternatives(CONFIG.definitions.calibrations),
    selection=alternatives(CONFIG.definitions.selections),
    n=r"[1-9]\d*",
    moments=alternatives(MOMENTS_KINDS),
    recovery=alternatives(CONFIG.definitions.recoveries),
    start=alternatives(jobs.method_recoveries(CONFIG)),
    width=alternatives(CONFIG.definitions.width_prunings),
    lineage=r"dense|calibration/[^/]+/(selection/[^/]+/n[1-9]\d*/[^/]+|width/[^/]+/n[1-9]\d*)",


def chosen_layers_spec(wildcards):
    """The settings of a choice; a number that the ranking does not cover ends the planning."""
    try:
        return jobs.choose_layers_spec(
            CONFIG,
            wildcards.model,
            wildcards.calibration,
            wildcards.selection,
            int(wildcards.n),
        )
    except LpstepsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1)


def exported_variant(wildcards):
    """The variant that a job exports."""
    return jobs.Variant.from_lineage(wildcards.model, wildcards.lineage)


def exported_files(wildcards):
    """What an export is made from."""
    files = [
        MODEL.format(model=wildcards.model),
        *exported_scores(wildcards).values(),
        *exported_dense_scores(wildcards).values(),
    ]
    named = variant_inputs(wildcards)
    return files + [named[name] for name in VARIANT_OPTIONS if name in named]


def exported_scores(wildcards):
    """`{benchmark: file}` of the scores that the model card shows."""
    return exports.score_files(CONFIG, exported_variant(wildcards))


def exported_dense_scores(wildcards):
    """`{benchmark: file}` of the dense model's scores beside them."""
    return exports.dense_score_files(CONFIG, exported_variant(wildcards))


def modeling_inputs(wildcards):
    """The source of the model class that the checkpoint may have to bring along."""
    source = exports.modeling_file(exported_variant(wildcards))
    return {"modeling": local(source)} if source else {}
