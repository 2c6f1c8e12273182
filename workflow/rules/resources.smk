"""Pinned downloads: models as safetensors, datasets as Parquet."""


onstart:
    # Nothing starts that would stop at a download without a commit hash.
    to_run = list(workflow.dag.needrun_jobs())
    try:
        jobs.refuse_unpinned(
            CONFIG,
            [
                job.wildcards.model
                for job in to_run
                if job.rule.name == "fetch_model"
            ],
            [
                job.wildcards.dataset
                for job in to_run
                if job.rule.name == "fetch_data"
            ],
        )
    except LpstepsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1)


rule fetch_archive:
    output:
        **made_beside("resources/archives/{archive}/manifest.json"),
        manifest="resources/archives/{archive}/manifest.json",
        record=record("resources/archives/{archive}/manifest.json"),
    log:
        "logs/fetch_archive/{archive}.log",
    benchmark:
        "results/runtime/fetch_archive/{archive}.tsv"
    params:
        spec=lambda wildcards: jobs.archive_spec(CONFIG, wildcards.archive),
        code=code("lpsteps.steps.fetch_archive"),
        env=ENVIRONMENT,
    message:
        "Downloading archive {wildcards.archive}"
    shell:
        "python -m lpsteps.steps.fetch_archive --manifest {output.manifest}"
        " --spec {params.spec:q} --log {log}"


rule convert_model:
    input:
        archive=archive_of_model,
        archive_files=lambda wildcards: beside(archive_of_model(wildcards)),
    output:
        **made_beside("resources/models/{model}/manifest.json"),
        manifest="resources/models/{model}/manifest.json",
        record=record("resources/models/{model}/manifest.json"),
    log:
        "logs/convert_model/{model}.log",
    benchmark:
        "results/runtime/convert_model/{model}.tsv"
    wildcard_constraints:
        model=alternatives(
            name
            for name in CONFIG.definitions.models
            if jobs.archive_of_model(CONFIG, name)
        ),
    threads: ALL_CORES
    resources:
        mem_mb=job_resources.per_attempt(
            lambda wildcards: 2 * jobs.memory_mb(CONFIG, wildcards.model)
        ),
        runtime=job_resources.per_attempt(
            lambda wildcards: job_resources.model_minutes(CONFIG, wildcards.model)
        ),
    params:
        spec=lambda wildcards: jobs.convert_model_spec(CONFIG, wildcards.model),
        code=code("lpsteps.steps.convert_model"),
        env=ENVIRONMENT,
    message:
        "Converting {wildcards.model} to safetensors"
    shell:
        "python -m lpsteps.steps.convert_model --archive {input.archive}"
        " --manifest {output.manifest} --spec {params.spec:q} --log {log}"


rule fetch_model:
    input:
        local=lambda wildcards: local(jobs.local_model_files(CONFIG, wildcards.model)),
    output:
        **made_beside("resources/models/{model}/manifest.json"),
        manifest="resources/models/{model}/manifest.json",
        record=record("resources/models/{model}/manifest.json"),
    log:
        "logs/fetch_model/{model}.log",
    benchmark:
        "results/runtime/fetch_model/{model}.tsv"
    wildcard_constraints:
        model=alternatives(
            name
            for name in CONFIG.definitions.models
            if not jobs.archive_of_model(CONFIG, name)
        ),
    params:
        spec=lambda wildcards: jobs.fetch_model_spec(CONFIG, wildcards.model),
        code=code("lpsteps.steps.fetch_model"),
        env=ENVIRONMENT,
    message:
        "Fetching model {wildcards.model}"
    shell:
        "python -m lpsteps.steps.fetch_model --manifest {output.manifest}"
        " --spec {params.spec:q} --log {log}"


rule fetch_data:
    input:
        unpack(dataset_inputs),
    output:
        **made_beside("resources/data/{dataset}/manifest.json"),
        manifest="resources/data/{dataset}/manifest.json",
        record=record("resources/data/{dataset}/manifest.json"),
    log:
        "logs/fetch_data/{dataset}.log",
    benchmark:
        "results/runtime/fetch_data/{dataset}.tsv"
    params:
        spec=lambda wildcards: jobs.fetch_data_spec(CONFIG, wildcards.dataset),
        code=code("lpsteps.steps.fetch_data"),
        env=ENVIRONMENT,
        archive=lambda wildcards: options(dataset_inputs(wildcards), "archive"),
    message:
        "Preparing dataset {wildcards.dataset}"
    shell:
        "python -m lpsteps.steps.fetch_data {params.archive}"
        " --manifest {output.manifest} --spec {params.spec:q} --log {log}"


rule tokenize_corpus:
    input:
        model=MODEL,
        model_files=beside(MODEL),
        data=lambda wildcards: jobs.corpora_manifest(CONFIG, wildcards.corpus),
        data_files=lambda wildcards: beside(
            jobs.corpora_manifest(CONFIG, wildcards.corpus)
        ),
    output:
        windows=paths.windows("{model}", "{corpus}", "{split}"),
        record=record(paths.windows("{model}", "{corpus}", "{split}")),
    log:
        "logs/tokenize_corpus/{model}.{corpus}.{split}.log",
    benchmark:
        "results/runtime/tokenize_corpus/{model}.{corpus}.{split}.tsv"
    resources:
        mem_mb=job_resources.per_attempt(
            lambda wildcards: jobs.tokenize_corpus_mb(CONFIG, wildcards.corpus)
        ),
        runtime=SHORT_JOB["runtime"],
    params:
        spec=lambda wildcards: jobs.tokenize_corpus_spec(
            CONFIG, wildcards.model, wildcards.corpus, wildcards.split
        ),
        code=code("lpsteps.steps.tokenize_corpus"),
        env=ENVIRONMENT,
    message:
        "Tokenising {wildcards.corpus} ({wildcards.split}) for {wildcards.model}"
    shell:
        "python -m lpsteps.steps.tokenize_corpus --model {input.model} --data {input.data}"
        " --windows {output.windows} --spec {params.spec:q} --log {log}"
