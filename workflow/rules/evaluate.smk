# in: models    out: results/<study>/samples/{base,<target>}.parquet
# One job asks all models that are compared with one another: starting Python, torch and lm-eval costs more than many questions.


rule evaluate_base:
    input:
        models=[BASE, *expand(DONOR, seed=SEEDS)],
        format=SETTINGS.evaluation.needle.format,
        questions=STUDY.question_files(SETTINGS.evaluation.needle.format),
    output:
        samples=BASE_SAMPLES,
    log:
        f"{LOGS}/evaluate/base.log",
    benchmark:
        f"{TIMES}/evaluate/base.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.evaluate
    resources:
        **asks("evaluate_base"),
    params:
        models=base_models(),
        questions=cli_arguments.of_all(SETTINGS),
        version=VERSION,
    shell:
        "contextgraft evaluate {params.models} --format {input.format} {params.questions:q}"
        " --threads {threads} --out {output.samples} > {log} 2>&1"


# First what frees the disk: grafts that pass are deleted when they were evaluated and verified.
rule evaluate:
    input:
        alone=TARGET,
        grafts=grafts_of,
        format=needle_format,
        questions=question_files,
    output:
        samples=SAMPLE,
    log:
        f"{LOGS}/evaluate/{{target}}.log",
    benchmark:
        f"{TIMES}/evaluate/{{target}}.tsv"
    priority: 1
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.evaluate
    resources:
        **asks("evaluate"),
    params:
        models=target_models,
        questions=lambda wildcards: cli_arguments.of_target(SETTINGS, STUDY.targets[wildcards.target]),
        version=VERSION,
    shell:
        "contextgraft evaluate {params.models} --format {input.format} {params.questions:q} --allow-refused"
        " --threads {threads} --out {output.samples} > {log} 2>&1"
