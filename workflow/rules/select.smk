"""Which layers go: a score table for every candidate, then the plan for each number of layers."""

RANKING = paths.ranking("{model}", "{calibration}", "{selection}")


rule rank_layers:
    input:
        unpack(selection_inputs),
    output:
        ranking=RANKING,
        record=record(RANKING),
    log:
        "logs/rank_layers/{model}.{calibration}.{selection}.log",
    benchmark:
        "results/runtime/rank_layers/{model}.{calibration}.{selection}.tsv"
    cache: SHARED
    group:
        group_of_ranking
    threads:
        lambda wildcards: (
            ALL_CORES
            if "model" in jobs.selection_needs(CONFIG, wildcards.selection)
            else 1
        )
    resources:
        **model_job(
            lambda wildcards: jobs.rank_layers_mb(
                CONFIG, wildcards.model, wildcards.calibration, wildcards.selection
            ),
            runs_model=lambda wildcards: "model"
            in jobs.selection_needs(CONFIG, wildcards.selection),
        ),
        **PLAN_JOB,
    params:
        spec=lambda wildcards: jobs.rank_layers_spec(
            CONFIG, wildcards.model, wildcards.calibration, wildcards.selection
        ),
        code=lambda wildcards: code(
            "lpsteps.steps.rank_layers",
            *jobs.selection_modules(CONFIG, wildcards.selection),
        ),
        env=ENVIRONMENT,
        place="{model}/{calibration}/{selection}",
        inputs=lambda wildcards: options(
            selection_inputs(wildcards), "stats", "model", "compute", "windows"
        ),
    message:
        "Ranking layers of {wildcards.model} by {wildcards.selection}"
    shell:
        "python -m lpsteps.steps.rank_layers {params.inputs} --ranking {output.ranking}"
        " --spec {params.spec:q} --log {log}"


rule choose_layers:
    input:
        ranking=RANKING,
    output:
        plan=paths.plan(PLAN_FOLDER),
        record=record(paths.plan(PLAN_FOLDER)),
    log:
        "logs/choose_layers/{model}.{calibration}.{selection}.n{n}.log",
    benchmark:
        "results/runtime/choose_layers/{model}.{calibration}.{selection}.n{n}.tsv"
    resources:
        **SHORT_JOB,
        **PLAN_JOB,
    params:
        spec=chosen_layers_spec,
        code=code("lpsteps.steps.choose_layers"),
        env=ENVIRONMENT,
    message:
        "Choosing {wildcards.n} layers of {wildcards.model} by {wildcards.selection}"
    shell:
        "python -m lpsteps.steps.choose_layers --ranking {input.ranking} --plan {output.plan}"
        " --spec {params.spec:q} --log {log}"
