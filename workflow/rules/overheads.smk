"""What a patch costs beside other operations, in time, too: one file per model."""


rule measure_overheads:
    input:
        unpack(stored_targets),
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
    output:
        overheads=paths.overheads("{model}"),
        record=record(paths.overheads("{model}")),
    log:
        "logs/measure_overheads/{model}.log",
    benchmark:
        "results/runtime/measure_overheads/{model}.tsv"
    # All cores, so that nothing runs beside what is timed.
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.overheads_mb(CONFIG, wildcards.model)),
    params:
        spec=jobs.measure_overheads_spec(CONFIG),
        code=code("lpsteps.steps.measure_overheads"),
        env=ENVIRONMENT,
        store=lambda wildcards: options(stored_targets(wildcards), "store"),
    message:
        "Measuring what a patch of {wildcards.model} costs"
    shell:
        "python -m lpsteps.steps.measure_overheads --model {input.model}"
        " --compute {input.compute} {params.store} --overheads {output.overheads}"
        " --spec {params.spec:q} --log {log}"
