"""Tables, figures and the page."""

TABLES = sorted(CONFIG.profile.tables)
FIGURES = sorted(CONFIG.profile.figures)
TABLE_FILES = [f"reports/tables/{table}.csv" for table in TABLES]
FIGURE_FILES = [f"reports/figures/{figure}.csv" for figure in FIGURES]

# Headings of the categories in `snakemake --report`.
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


rule build_tables:
    input:
        **jobs.table_inputs(CONFIG),
        definitions=[f"reports/tables/{table}.yaml" for table in TABLES],
        figures=[f"reports/figures/{figure}.yaml" for figure in FIGURES],
        published=jobs.published_files(CONFIG),
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
