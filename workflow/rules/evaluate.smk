# in: models, adapters    out: results/<study>/samples/{base,<target>}.parquet and .yaml
# One job evaluates all models that are compared with each other: starting Python and torch takes longer than many
# questions. What a model is evaluated on is written next to its samples: NAME.yaml, of `contextgraft evaluate --config`.


rule evaluate_base:
    input:
        models=[PATHS.base, *STUDY.donors()],
        questions=lambda wildcards: STUDY.question_files(),
        reference=STUDY.reference_files,
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


# A fine-tune and all of its grafts, which are made in memory. The target is read from the disk once if the page cache
# holds it, else again for each graft, for its digests and to load it. Also written: the record that each graft would have, the alignment of the fine-tune
# with the adapters, the rank that the report recommends. A failed job keeps its responses, and the next one continues.
rule evaluate:
    input:
        alone=PATHS.target,
        base=PATHS.base,
        adapters=STUDY.adapters(),
        controls=STUDY.control_models(),
        questions=lambda wildcards: STUDY.question_files(wildcards.target),
        reference=STUDY.reference_files,
    output:
        samples=PATHS.samples,
        config=PATHS.evaluation,
        recommendation=PATHS.recommendation,
        records=STUDY.record_patterns(),
        alignments=STUDY.alignment_patterns(),
    log:
        PATHS.log("evaluate/{target}"),
    benchmark:
        PATHS.benchmark("evaluate/{target}")
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.evaluate
    resources:
        **requested("evaluate"),
    params:
        model=lambda wildcards: STUDY.evaluated_target(wildcards.target),
        grafts=lambda wildcards: STUDY.graft_arguments(wildcards.target),
        config=lambda wildcards: STUDY.evaluation_yaml(wildcards.target),
        device=STUDY.device_arguments(),
        version=VERSION,
    shell:
        "printf %s {params.config:q} > {output.config:q}"
        " && contextgraft evaluate {params.model:q} {params.grafts:q} --recommendation {output.recommendation:q}"
        " --config {output.config:q} {params.device:q} --allow-refused"
        " --threads {threads} --out {output.samples:q} > {log:q} 2>&1"
