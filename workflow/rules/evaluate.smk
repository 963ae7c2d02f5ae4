# in: models    out: results/<study>/samples/{base,<target>}.parquet
# One job evaluates all models that are compared with each other: starting Python and torch takes longer than many
# questions.


rule evaluate_base:
    input:
        models=[PATHS.base, *STUDY.donors()],
        format=STUDY.needle_format(),
        questions=STUDY.question_files(),
    output:
        samples=PATHS.base_samples,
    log:
        PATHS.log("evaluate/base"),
    benchmark:
        PATHS.benchmark("evaluate/base")
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.evaluate
    resources:
        **requested("evaluate_base"),
    params:
        models=STUDY.evaluated_base_models(),
        questions=STUDY.evaluate_arguments(),
        version=VERSION,
    shell:
        "contextgraft evaluate {params.models:q} --format {input.format:q} {params.questions:q}"
        " --threads {threads} --out {output.samples:q} > {log:q} 2>&1"


# Before other jobs, because it frees disk space: temporary grafts are deleted when they are evaluated and verified.
rule evaluate:
    input:
        alone=PATHS.target,
        grafts=lambda wildcards: STUDY.graft_inputs(wildcards.target),
        format=lambda wildcards: STUDY.needle_format(wildcards.target),
        questions=lambda wildcards: STUDY.question_files(wildcards.target),
    output:
        samples=PATHS.samples,
    log:
        PATHS.log("evaluate/{target}"),
    benchmark:
        PATHS.benchmark("evaluate/{target}")
    priority: 1
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.evaluate
    resources:
        **requested("evaluate"),
    params:
        models=lambda wildcards: STUDY.evaluated_models(wildcards.target),
        questions=lambda wildcards: STUDY.evaluate_arguments(wildcards.target),
        version=VERSION,
    shell:
        "contextgraft evaluate {params.models:q} --format {input.format:q} {params.questions:q} --allow-refused"
        " --threads {threads} --out {output.samples:q} > {log:q} 2>&1"
