# in: models    out: results/<study>/samples/{base,<target>}.parquet and .yaml
# One job evaluates all models that are compared with each other: starting Python and torch takes longer than many
# questions. What a model is evaluated on is written next to its samples: NAME.yaml, of `contextgraft evaluate --config`.


rule evaluate_base:
    input:
        models=[PATHS.base, *STUDY.donors()],
        questions=lambda wildcards: STUDY.question_files(),
    output:
        samples=PATHS.base_samples,
        config=PATHS.base_evaluation,
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
        config=lambda wildcards: STUDY.evaluation_yaml(),
        device=STUDY.device_arguments(),
        version=VERSION,
    shell:
        "printf %s {params.config:q} > {output.config:q}"
        " && contextgraft evaluate {params.models:q} --config {output.config:q} {params.device:q}"
        " --threads {threads} --out {output.samples:q} > {log:q} 2>&1"


# Before other jobs, because it frees disk space: temporary grafts are deleted when they are evaluated and verified.
rule evaluate:
    input:
        alone=PATHS.target,
        grafts=lambda wildcards: STUDY.graft_inputs(wildcards.target),
        questions=lambda wildcards: STUDY.question_files(wildcards.target),
    output:
        samples=PATHS.samples,
        config=PATHS.evaluation,
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
        config=lambda wildcards: STUDY.evaluation_yaml(wildcards.target),
        device=STUDY.device_arguments(),
        version=VERSION,
    shell:
        "printf %s {params.config:q} > {output.config:q}"
        " && contextgraft evaluate {params.models:q} --config {output.config:q} {params.device:q} --allow-refused"
        " --threads {threads} --out {output.samples:q} > {log:q} 2>&1"
