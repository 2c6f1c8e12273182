"""Train a patch so that the pruned model predicts what the dense model does.

Trainings of several epochs read the dense model's predictions from a store; others run it again.
"""

START_PATCH = paths.patch(paths.repaired_folder(PLAN_FOLDER, "{start}"))
TEACHER = paths.stored_targets(PLAN_FOLDER, "{start}", "{store}")
CURVE = paths.training_curve(paths.repaired_folder(PLAN_FOLDER, "{recovery}"))


rule store_teacher:
    input:
        plan=paths.plan(PLAN_FOLDER),
        start=START_PATCH,
        start_files=beside(START_PATCH),
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        fit=lambda wildcards: list(training_text(wildcards, "fit").values()),
    output:
        **made_beside(TEACHER),
        manifest=TEACHER,
        record=record(TEACHER),
    log:
        "logs/store_teacher/{model}.{calibration}.{selection}.n{n}.{start}.{store}.log",
    benchmark:
        "results/runtime/store_teacher/{model}.{calibration}.{selection}.n{n}.{start}.{store}.tsv"
    wildcard_constraints:
        store=alternatives(jobs.teacher_stores(CONFIG)),
    threads: ALL_CORES
    resources:
        **model_job(lambda wildcards: 2 * jobs.memory_mb(CONFIG, wildcards.model)),
    params:
        spec=lambda wildcards: jobs.store_teacher_spec(CONFIG, wildcards.store),
        code=code("lpsteps.steps.store_teacher"),
        env=ENVIRONMENT,
        text=lambda wildcards: named_options("fit", training_text(wildcards, "fit")),
    message:
        "Storing what {wildcards.model} predicts, {wildcards.store},"
        " for {wildcards.selection}, {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.store_teacher --plan {input.plan} --start {input.start}"
        " --model {input.model} --compute {input.compute} {params.text}"
        " --manifest {output.manifest} --spec {params.spec:q} --log {log}"


rule distill:
    input:
        unpack(training_inputs),
        plan=paths.plan(PLAN_FOLDER),
        model=MODEL,
        model_files=beside(MODEL),
        compute=COMPUTE,
        fit=lambda wildcards: list(training_text(wildcards, "fit").values()),
        heldout=lambda wildcards: list(training_text(wildcards, "heldout").values()),
    output:
        patch=paths.tensors(PATCH),
        manifest=PATCH,
        training=CURVE,
        patch_record=record(paths.tensors(PATCH)),
        manifest_record=record(PATCH),
        training_record=record(CURVE),
    log:
        "logs/distill/{model}.{calibration}.{selection}.n{n}.{recovery}.log",
    benchmark:
        "results/runtime/distill/{model}.{calibration}.{selection}.n{n}.{recovery}.tsv"
    wildcard_constraints:
        recovery=alternatives(jobs.distilled_recoveries(CONFIG)),
    cache: SHARED
    threads: ALL_CORES
    resources:
        **model_job(
            lambda wildcards: jobs.distill_mb(
                CONFIG, wildcards.model, wildcards.recovery
            )
        ),
    params:
        spec=lambda wildcards: jobs.distill_spec(CONFIG, wildcards.recovery),
        code=code("lpsteps.steps.distill"),
        env=ENVIRONMENT,
        place="{model}/{calibration}/{selection}/{n}/{recovery}",
        text=lambda wildcards: " ".join(
            named_options(part, training_text(wildcards, part))
            for part in ("fit", "heldout")
        ),
        teacher=lambda wildcards: options(training_inputs(wildcards), "teacher"),
    message:
        "Distilling {wildcards.recovery} for {wildcards.model}, {wildcards.selection},"
        " {wildcards.n} layers"
    shell:
        "python -m lpsteps.steps.distill --plan {input.plan} --start {input.start}"
        " --model {input.model} --compute {input.compute} {params.text} {params.teacher}"
        " --patch {output.patch} --manifest {output.manifest} --training {output.training}"
        " --spec {params.spec:q} --log {log}"
