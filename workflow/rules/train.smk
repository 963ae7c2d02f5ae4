# in: the base, a training recipe    out: data/<study>/models/{donor-s<seed>,<target>}/
# An interrupted run resumes: its checkpoints are in a folder next to the output.


rule train:
    input:
        base=PATHS.base,
        recipe=lambda wildcards: STUDY.recipe_files(wildcards.model),
    output:
        manifest=PATHS.model,
    log:
        PATHS.log("train/{model}"),
    benchmark:
        PATHS.benchmark("train/{model}")
    wildcard_constraints:
        model=one_of(STUDY.trained_models()),
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.train
    resources:
        **requested("train"),
        # Not a parameter: a different number of processes is not a reason to train again.
        launch=lambda wildcards: STUDY.launcher(wildcards.model),
    params:
        recipe=lambda wildcards: STUDY.recipe_arguments(wildcards.model),
        base=subpath(input.base, parent=True),
        seed=lambda wildcards: STUDY.seed_arguments(wildcards.model),
        out=subpath(output.manifest, parent=True),
        version=VERSION,
    shell:
        "{resources.launch} contextgraft train {params.recipe:q} --base {params.base:q}"
        " --replace --out {params.out:q} {params.seed:q} > {log:q} 2>&1"
