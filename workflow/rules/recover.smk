"""Repair the cut: one set of tensors per variant, spoken for by a small manifest."""

PLAN_FOLDER = "results/{model}/calibration/{calibration}/selection/{selection}/n{n}"


rule build_patch:
    input:
        unpack(recovery_inputs),
        plan=f"{PLAN_FOLDER}/plan.json",
        model="resources/models/{model}/manifest.json",
    output:
        patch=f"{PLAN_FOLDER}/{{recovery}}/patch.safetensors",
        manifest=f"{PLAN_FOLDER}/{{recovery}}/patch.manifest.json",
        records=[
            record(f"{PLAN_FOLDER}/{{recovery}}/patch.safetensors"),
            record(f"{PLAN_FOLDER}/{{recovery}}/patch.manifest.json"),
        ],
    log:
        "logs/build_patch/{model}.{calibration}.{selection}.n{n}.{recovery}.log",
    benchmark:
        "results/runtime/build_patch/{model}.{calibration}.{selection}.n{n}.{recovery}.tsv"
    params:
        spec=lambda wildcards: jobs.build_patch_spec(CONFIG, wildcards.recovery),
        code=lambda wildcards: code(
            "lpsteps.steps.build_patch",
            *jobs.recovery_modules(CONFIG, wildcards.recovery),
        ),
        env=ENVIRONMENT,
        inputs=lambda wildcards: options(recovery_inputs(wildcards), "stats"),
    message:
        "Building {wildcards.recovery} for {wildcards.model}, {wildcards.selection},"
        " {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.build_patch {params.inputs} --plan {input.plan}"
        " --model {input.model} --patch {output.patch} --manifest {output.manifest}"
        " --spec {params.spec:q} --log {log}"
