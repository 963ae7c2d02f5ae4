# in: models    out: results/<study>/samples/{base,<target>}.parquet
# One job asks all models that are compared with one another: starting Python, torch and lm-eval costs more than many questions.


rule evaluate_base:
    input:
        models=[BASE, *expand(DONOR, seed=SEEDS)],
        format=SETTINGS.evaluation.needle.format,
        questions=STUDY.files(SETTINGS.evaluation.needle.format),
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
        mem_mb=8000,
        runtime=240,
    params:
        models=base_models,
        grid=grid,
        version=VERSION,
    shell:
        "contextgraft evaluate {params.models} --format {input.format} {params.grid}"
        " --threads {threads} --out {output.samples} > {log} 2>&1"


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
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.evaluate
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        models=target_models,
        grid=grid,
        skill=skill_options,
        version=VERSION,
    shell:
        "contextgraft evaluate {params.models} --format {input.format} {params.grid} {params.skill}"
        " --threads {threads} --out {output.samples} > {log} 2>&1"
