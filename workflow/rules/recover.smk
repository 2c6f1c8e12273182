"""Repair the cut: one set of tensors per variant, spoken for by a small manifest.

Repairs by least squares read the moments of the stream around each gap, which they share.
"""

MOMENTS = paths.moments(PLAN_FOLDER, "{moments}")
PATCH = paths.patch(paths.repaired_folder(PLAN_FOLDER, "{recovery}"))


rule measure_moments:
    input:
        plan=paths.plan(PLAN_FOLDER),
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        windows=lambda wildcards: jobs.calibration_windows(
            CONFIG, wildcards.model, wildcards.calibration
        ),
    output:
        moments=paths.tensors(MOMENTS),
        manifest=MOMENTS,
        moments_record=record(paths.tensors(MOMENTS)),
        manifest_record=record(MOMENTS),
    log:
        "logs/measure_moments/{model}.{calibration}.{selection}.n{n}.{moments}.log",
    benchmark:
        "results/runtime/measure_moments/{model}.{calibration}.{selection}.n{n}.{moments}.tsv"
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(
            lambda wildcards: jobs.memory_mb(CONFIG, wildcards.model)
            + jobs.moments_mb(
                CONFIG, wildcards.model, int(wildcards.n), wildcards.moments
            )
        ),
    params:
        spec=lambda wildcards: jobs.measure_moments_spec(
            CONFIG, wildcards.calibration, wildcards.moments
        ),
        code=code("lpsteps.steps.measure_moments"),
        env=ENVIRONMENT,
        place="{model}/{calibration}/{selection}/{n}",
    message:
        "Measuring {wildcards.moments} moments of {wildcards.model}, {wildcards.selection},"
        " {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.measure_moments --plan {input.plan} --model {input.model}"
        " --compute {input.compute} --windows {input.windows} --moments {output.moments}"
        " --manifest {output.manifest} --spec {params.spec:q} --log {log}"


rule build_patch:
    input:
        unpack(recovery_inputs),
        plan=paths.plan(PLAN_FOLDER),
        model=MODEL,
        model_files=beside(MODEL),
    output:
        patch=paths.tensors(PATCH),
        manifest=PATCH,
        patch_record=record(paths.tensors(PATCH)),
        manifest_record=record(PATCH),
    log:
        "logs/build_patch/{model}.{calibration}.{selection}.n{n}.{recovery}.log",
    benchmark:
        "results/runtime/build_patch/{model}.{calibration}.{selection}.n{n}.{recovery}.tsv"
    wildcard_constraints:
        recovery=alternatives(jobs.method_recoveries(CONFIG)),
    cache: SHARED
    threads:
        lambda wildcards: (
            ALL_CORES
            if "model" in jobs.recovery_needs(CONFIG, wildcards.recovery)
            else 1
        )
    resources:
        **model_job(
            lambda wildcards: jobs.build_patch_mb(
                CONFIG,
                wildcards.model,
                wildcards.calibration,
                int(wildcards.n),
                wildcards.recovery,
            ),
            runs_model=lambda wildcards: "model"
            in jobs.recovery_needs(CONFIG, wildcards.recovery),
        ),
    params:
        spec=lambda wildcards: jobs.build_patch_spec(
            CONFIG, wildcards.model, wildcards.calibration, wildcards.recovery
        ),
        code=lambda wildcards: code(
            "lpsteps.steps.build_patch",
            *jobs.recovery_modules(CONFIG, wildcards.recovery),
        ),
        env=ENVIRONMENT,
        place="{model}/{calibration}/{selection}/{n}/{recovery}",
        inputs=lambda wildcards: options(
            recovery_inputs(wildcards), "stats", "moments", "compute", "windows"
        ),
    message:
        "Building {wildcards.recovery} for {wildcards.model}, {wildcards.selection},"
        " {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.build_patch {params.inputs} --plan {input.plan}"
        " --model {input.model} --patch {output.patch} --manifest {output.manifest}"
        " --spec {params.spec:q} --log {log}"
