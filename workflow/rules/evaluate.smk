"""Score variants: one job per variant and suite, one JSON per benchmark."""


def score_outputs(folder, benchmarks):
    """The scores of a suite and their records, each by a name as `cache` needs it."""
    scores = {name: paths.score(folder, name) for name in benchmarks}
    return {
        **{f"score_{name}": path for name, path in scores.items()},
        **{f"record_{name}": record(path) for name, path in scores.items()},
    }


# Snakemake fixes the number of outputs of a rule, and suites differ in theirs: a rule for each.
for suite, entry in CONFIG.profile.suites.items():

    rule:
        name:
            f"evaluate_{suite}"
        input:
            unpack(variant_inputs),
            model=MODEL,
            model_files=beside(MODEL),
            compute=COMPUTE,
            data=lambda wildcards, suite=suite: list(
                jobs.suite_inputs(CONFIG, wildcards.model, suite).values()
            ),
            # No function where it has nothing to say: there are very many of these jobs.
            data_files=(
                (
                    lambda wildcards, suite=suite: beside(
                        *jobs.suite_inputs(CONFIG, wildcards.model, suite).values()
                    )
                )
                if STORED
                else []
            ),
        output:
            **score_outputs(VARIANT_FOLDER, entry.benchmarks),
        log:
            f"logs/evaluate_{entry.protocol}/{{model}}/{{lineage}}/{suite}.log",
        benchmark:
            f"results/runtime/evaluate_{entry.protocol}/{{model}}/{{lineage}}/{suite}.tsv"
        cache: SHARED
        threads: ALL_CORES
        resources:
            **model_job(lambda wildcards: jobs.memory_mb(CONFIG, wildcards.model)),
        params:
            spec=lambda wildcards, suite=suite: jobs.evaluate_spec(
                CONFIG, wildcards.model, wildcards.lineage, suite
            ),
            code=code(f"lpsteps.steps.evaluate_{entry.protocol}"),
            env=ENVIRONMENT,
            place="{model}/{lineage}",
            step=f"lpsteps.steps.evaluate_{entry.protocol}",
            variant=lambda wildcards: options(
                variant_inputs(wildcards), *VARIANT_OPTIONS
            ),
            data=lambda wildcards, suite=suite, protocol=entry.protocol: named_options(
                DATA_OPTION[protocol],
                jobs.suite_inputs(CONFIG, wildcards.model, suite),
            ),
            scores=lambda wildcards, names=tuple(entry.benchmarks): named_options(
                "score",
                {
                    name: paths.score(
                        paths.lineage_folder(wildcards.model, wildcards.lineage), name
                    )
                    for name in names
                },
            ),
        message:
            f"Scoring {suite} of {{wildcards.model}}/{{wildcards.lineage}}"
        shell:
            "python -m {params.step} --model {input.model} --compute {input.compute}"
            " {params.variant} {params.data} {params.scores}"
            " --spec {params.spec:q} --log {log}"
