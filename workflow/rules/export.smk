"""Take a variant away: a checkpoint that other programs load. Nothing else asks for one."""

CHECKPOINT = paths.checkpoint(VARIANT_FOLDER)


rule export_model:
    input:
        unpack(variant_inputs),
        unpack(modeling_inputs),
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        scores=lambda wildcards: list(exported_scores(wildcards).values()),
        dense_scores=lambda wildcards: list(exported_dense_scores(wildcards).values()),
        lineage=lambda wildcards: behind(exported_files(wildcards)),
    output:
        **made_beside(CHECKPOINT),
        manifest=CHECKPOINT,
        record=record(CHECKPOINT),
    log:
        "logs/export_model/{model}/{lineage}.log",
    benchmark:
        "results/runtime/export_model/{model}/{lineage}.tsv"
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.memory_mb(CONFIG, wildcards.model)),
    params:
        spec=lambda wildcards: exports.export_model_spec(
            CONFIG, exported_variant(wildcards)
        ),
        code=code("lpsteps.steps.export_model"),
        env=ENVIRONMENT,
        variant=lambda wildcards: options(
            {**variant_inputs(wildcards), **modeling_inputs(wildcards)},
            *VARIANT_OPTIONS,
            "modeling",
        ),
        scores=lambda wildcards: named_options("score", exported_scores(wildcards)),
        dense_scores=lambda wildcards: named_options(
            "dense-score", exported_dense_scores(wildcards)
        ),
    message:
        "Exporting {wildcards.model}/{wildcards.lineage}"
    shell:
        "python -m lpsteps.steps.export_model --model {input.model} --compute {input.compute}"
        " {params.variant} {params.scores} {params.dense_scores} --manifest {output.manifest}"
        " --spec {params.spec:q} --log {log}"
