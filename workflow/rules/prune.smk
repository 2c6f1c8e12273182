"""Prune heads and channels in place of layers: what stays, spoken for by a small manifest."""

WIDTH = paths.width(paths.width_folder("{model}", "{calibration}", "{width}", "{n}"))


rule prune_width:
    input:
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        windows=lambda wildcards: jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        tensors=paths.tensors(WIDTH),
        manifest=WIDTH,
        tensors_record=record(paths.tensors(WIDTH)),
        manifest_record=record(WIDTH),
    log:
        "logs/prune_width/{model}.{calibration}.{width}.n{n}.log",
    benchmark:
        "results/runtime/prune_width/{model}.{calibration}.{width}.n{n}.tsv"
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.prune_width_mb(CONFIG, wildcards.model)),
    params:
        spec=lambda wildcards: jobs.prune_width_spec(
            CONFIG, wildcards.calibration, wildcards.width, int(wildcards.n)
        ),
        code=lambda wildcards: code(
            "lpsteps.steps.prune_width",
            *jobs.width_modules(CONFIG, wildcards.width),
        ),
        env=ENVIRONMENT,
        place="{model}/{calibration}/{width}/{n}",
    message:
        "Pruning the width of {wildcards.model} by {wildcards.width}, as much as"
        " {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.prune_width --model {input.model} --compute {input.compute}"
        " --windows {input.windows} --tensors {output.tensors} --manifest {output.manifest}"
        " --spec {params.spec:q} --log {log}"
