"""Tables, figures and the page."""

import json

TABLES = sorted(CONFIG.profile.tables)
FIGURES = sorted(CONFIG.profile.figures)
TABLE_FILES = [f"reports/tables/{table}.csv" for table in TABLES]
FIGURE_FILES = [f"reports/figures/{figure}.csv" for figure in FIGURES]
TABLE_INPUTS = {
    **jobs.table_inputs(CONFIG),
    "definitions": local([f"reports/tables/{table}.yaml" for table in TABLES]),
    "figures": local([f"reports/figures/{figure}.yaml" for figure in FIGURES]),
    "published": local(jobs.published_files(CONFIG)),
}


# A command line can hold no more than 128 KiB in one argument, and the shell gets all of it as one,
# so what grows with the profile goes through a file. It holds what the profile asks for and nothing
# measured; the records of the tables repeat all its lines, which is why it has none itself.
rule write_arguments:
    input:
        template=local("workflow/templates/build_tables.txt.j2"),
    output:
        "results/arguments/build_tables.txt",
    # Nothing is written to it, but the linter wants every rule to name one.
    log:
        "logs/write_arguments/build_tables.log",
    params:
        # A function, or Snakemake would take the braces for wildcards.
        spec=lambda wildcards: json.dumps(jobs.build_tables_spec(CONFIG)),
        inputs=[path for files in TABLE_INPUTS.values() for path in files],
        csv=TABLE_FILES,
        figures=FIGURE_FILES,
    message:
        "Writing the arguments of build_tables"
    template_engine:
        "jinja2"


rule build_tables:
    input:
        **TABLE_INPUTS,
        lineage=lambda wildcards: behind(
            path for files in jobs.table_inputs(CONFIG).values() for path in files
        ),
        arguments="results/arguments/build_tables.txt",
    output:
        json="reports/tables.json",
        csv=[table_in_report(table) for table in TABLES],
        figures=[figure_in_report(figure) for figure in FIGURES],
        records=[
            record(path)
            for path in ["reports/tables.json", *TABLE_FILES, *FIGURE_FILES]
        ],
    log:
        "logs/build_tables/tables.log",
    benchmark:
        "results/runtime/build_tables/tables.tsv"
    resources:
        mem_mb=job_resources.per_attempt(lambda wildcards: jobs.build_tables_mb(CONFIG)),
        runtime=SHORT_JOB["runtime"],
    params:
        code=code("lpsteps.steps.build_tables"),
        env=ENVIRONMENT,
    message:
        "Building the tables"
    shell:
        "python -m lpsteps.steps.build_tables @{input.arguments}"
        " --tables-json {output.json} --log {log}"


rule render_report:
    input:
        tables="reports/tables.json",
        # The page names them. Snakemake looks at what it recorded of a job only if it did so for
        # all of its outputs, so a profile with one more table would change nothing without this.
        files=TABLE_FILES + FIGURE_FILES,
        templates=local(
            sorted(str(path) for path in Path("reports/templates").glob("[!.]*"))
        ),
    output:
        page=report(
            "reports/tables.html",
            caption="../report/page.rst",
            category="Page",
            labels={"page": "All tables and figures"},
        ),
        record=record("reports/tables.html"),
    log:
        "logs/render_report/tables.log",
    benchmark:
        "results/runtime/render_report/tables.tsv"
    resources:
        **SHORT_JOB,
    params:
        spec={},
        code=code("lpsteps.steps.render_report"),
        env=ENVIRONMENT,
    message:
        "Rendering reports/tables.html"
    shell:
        "python -m lpsteps.steps.render_report --tables {input.tables}"
        " --templates {input.templates} --page {output.page}"
        " --spec {params.spec:q} --log {log}"
