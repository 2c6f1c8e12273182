"""Regenerate the tables of the LinearPatch paper: `snakemake --cores 1 reports/tables.html`."""

from snakemake.utils import min_version

min_version("9.27")

if not workflow.configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/recover.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/overheads.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/sharing.smk"


rule all:
    default_target: True
    input:
        "reports/tables.html",


# A limit on these holds within each job of a cluster, not for all of them together.
resource_scopes:
    plan_jobs="local",


# Downloads run where Snakemake does: the nodes of many clusters have no network.
localrules:
    all,
    fetch_archive,
    fetch_model,
    fetch_data,
    write_arguments,


# The page names files all over the project: it is built where Snakemake runs, too, when the jobs
# have nothing but what Snakemake moves.
if STORED:
    workflow.localrules("build_tables", "render_report")


# Not for `--touch`, which runs nothing.
onsuccess:
    if not workflow.touch:
        logger.info(run_summary.after_success(workflow.dag))


onerror:
    logger.error(
        run_summary.after_failure(
            workflow.dag,
            workflow.scheduler.failed,
            logs_shown=workflow.output_settings.show_failed_logs,
        )
    )
