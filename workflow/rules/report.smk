"""Tables, figures and the page."""

TABLES = sorted(CONFIG.profile.tables)
FIGURES = sorted(CONFIG.profile.figures)
TABLE_FILES = [f"reports/tables/{table}.csv" for table in TABLES]
FIGURE_FILES = [f"reports/figures/{figure}.csv" for figure in FIGURES]


rule build_tables:
    input:
        **jobs.table_inputs(CONFIG),
        definitions=[f"reports/tables/{table}.yaml" for table in TABLES],
        figures=[f"reports/figures/{figure}.yaml" for figure in FIGURES],
        published=jobs.published_files(CONFIG),
    output:
        json="reports/tables.json",
        csv=TABLE_FILES,
        figures=FIGURE_FILES,
        records=[
            record(path)
            for path in ["reports/tables.json", *TABLE_FILES, *FIGURE_FILES]
        ],
    log:
        "logs/build_tables/tables.log",
    benchmark:
        "results/runtime/build_tables/tables.tsv"
    resources:
        **SHORT_JOB,
    params:
        spec=jobs.build_tables_spec(CONFIG),
        code=code("lpsteps.steps.build_tables"),
        env=ENVIRONMENT,
    message:
        "Building the tables"
    shell:
        "python -m lpsteps.steps.build_tables --inputs {input}"
        " --tables-json {output.json} --csv {output.csv} --figures-csv {output.figures}"
        " --spec {params.spec:q} --log {log}"


rule render_report:
    input:
        tables="reports/tables.json",
        # The page names them. Snakemake looks at what it recorded of a job only if it did so for
        # all of its outputs, so a profile with one more table would change nothing without this.
        files=TABLE_FILES + FIGURE_FILES,
        templates=sorted(str(path) for path in Path("reports/templates").glob("*")),
    output:
        page="reports/tables.html",
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
