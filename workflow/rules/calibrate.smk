"""Calibration text, and one pass over it: the statistics that every metric and repair reads."""


rule choose_dtype:
    input:
        model=MODEL,
        model_files=beside(MODEL),
    output:
        compute=COMPUTE,
        record=record(COMPUTE),
    log:
        "logs/choose_dtype/{model}.log",
    benchmark:
        "results/runtime/choose_dtype/{model}.tsv"
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.choose_dtype_mb(CONFIG, wildcards.model)),
    params:
        spec={"dtype": CONFIG.profile.dtype},
        code=code("lpsteps.steps.choose_dtype"),
        env=ENVIRONMENT,
    message:
        "Measuring which number type is faster here for {wildcards.model}"
    shell:
        "python -m lpsteps.steps.choose_dtype --model {input.model}"
        " --compute {output.compute} --spec {params.spec:q} --log {log}"


rule extend_windows:
    input:
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        windows=lambda wildcards: jobs.corpus_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        extended=paths.extended_windows("{model}", "{calibration}"),
        record=record(paths.extended_windows("{model}", "{calibration}")),
    log:
        "logs/extend_windows/{model}.{calibration}.log",
    benchmark:
        "results/runtime/extend_windows/{model}.{calibration}.tsv"
    wildcard_constraints:
        calibration=alternatives(jobs.extended_calibrations(CONFIG)),
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.extend_windows_mb(CONFIG, wildcards.model)),
    params:
        spec=lambda wildcards: jobs.extend_windows_spec(
            CONFIG, wildcards.model, wildcards.calibration
        ),
        code=code("lpsteps.steps.extend_windows"),
        env=ENVIRONMENT,
        place="{model}/{calibration}",
    message:
        "Adding text of {wildcards.model}'s own to {wildcards.calibration}"
    shell:
        "python -m lpsteps.steps.extend_windows --model {input.model}"
        " --compute {input.compute} --windows {input.windows} --extended {output.extended}"
        " --spec {params.spec:q} --log {log}"


rule calibrate:
    input:
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        windows=lambda wildcards: jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        stats=paths.statistics("{model}", "{calibration}"),
        record=record(paths.statistics("{model}", "{calibration}")),
    log:
        "logs/calibrate/{model}.{calibration}.log",
    benchmark:
        "results/runtime/calibrate/{model}.{calibration}.tsv"
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.memory_mb(CONFIG, wildcards.model)),
        **PLAN_JOB,
    params:
        spec=lambda wildcards: jobs.calibrate_spec(CONFIG, wildcards.calibration),
        code=code("lpsteps.steps.calibrate"),
        env=ENVIRONMENT,
        place="{model}/{calibration}",
    message:
        "Calibrating {wildcards.model} on {wildcards.calibration}"
    shell:
        "python -m lpsteps.steps.calibrate --model {input.model} --compute {input.compute}"
        " --windows {input.windows} --stats {output.stats}"
        " --spec {params.spec:q} --log {log}"


rule measure_token_scales:
    input:
        plan=paths.plan(PLAN_FOLDER),
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        windows=lambda wildcards: jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        scales=paths.token_scales(PLAN_FOLDER),
        record=record(paths.token_scales(PLAN_FOLDER)),
    log:
        "logs/measure_token_scales/{model}.{calibration}.{selection}.n{n}.log",
    benchmark:
        "results/runtime/measure_token_scales/{model}.{calibration}.{selection}.n{n}.tsv"
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: jobs.token_scales_mb(CONFIG, wildcards.model)),
    params:
        spec=lambda wildcards: jobs.measure_token_scales_spec(
            CONFIG, wildcards.calibration
        ),
        code=code("lpsteps.steps.measure_token_scales"),
        env=ENVIRONMENT,
        place="{model}/{calibration}/{selection}/{n}",
    message:
        "Measuring token-wise scalings of {wildcards.model}, {wildcards.selection},"
        " {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.measure_token_scales --plan {input.plan} --model {input.model}"
        " --compute {input.compute} --windows {input.windows} --scales {output.scales}"
        " --spec {params.spec:q} --log {log}"
