"""Calibration text, and one pass over it: the statistics that every metric and repair reads."""


rule choose_dtype:
    input:
        model=MODEL,
        model_files=beside(MODEL),
    output:
        compute="results/{model}/compute.json",
        record=record("results/{model}/compute.json"),
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
        compute="results/{model}/compute.json",
        windows=lambda wildcards: jobs.corpus_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        extended="results/{model}/calibration/{calibration}/windows.parquet",
        record=record("results/{model}/calibration/{calibration}/windows.parquet"),
    log:
        "logs/extend_windows/{model}.{calibration}.log",
    benchmark:
        "results/runtime/extend_windows/{model}.{calibration}.tsv"
    wildcard_constraints:
        calibration=alternatives(jobs.extended_calibrations(CONFIG)),
    cache: SHARED
    threads: ALL_CORES
    resources:
        # The keys and values of the windows that are written side by side lie beside the model.
        **model_job(lambda wildcards: 4500 + jobs.memory_mb(CONFIG, wildcards.model)),
    params:
        spec=lambda wildcards: jobs.extend_windows_spec(CONFIG, wildcards.calibration),
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
        compute="results/{model}/compute.json",
        windows=lambda wildcards: jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        stats="results/{model}/calibration/{calibration}/stats.parquet",
        record=record("results/{model}/calibration/{calibration}/stats.parquet"),
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
        plan="results/{model}/calibration/{calibration}/selection/{selection}/n{n}/plan.json",
        model=MODEL,
        model_files=beside(MODEL),
        compute="results/{model}/compute.json",
        windows=lambda wildcards: jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        scales="results/{model}/calibration/{calibration}/selection/{selection}/n{n}/token_scales.parquet",
        record=record(
            "results/{model}/calibration/{calibration}/selection/{selection}/n{n}/token_scales.parquet"
        ),
    log:
        "logs/measure_token_scales/{model}.{calibration}.{selection}.n{n}.log",
    benchmark:
        "results/runtime/measure_token_scales/{model}.{calibration}.{selection}.n{n}.tsv"
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: 1000 + jobs.memory_mb(CONFIG, wildcards.model)),
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
