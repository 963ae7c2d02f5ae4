# in: the base, a training recipe    out: data/<study>/models/{donor-s<seed>,<target>}/
# A run that was interrupted resumes: the command keeps its checkpoints beside its output.


rule train:
    input:
        base=BASE,
        recipe=recipe_files,
    output:
        manifest=MODEL,
    log:
        f"{LOGS}/train/{{model}}.log",
    benchmark:
        f"{TIMES}/train/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(name for name, origin in STUDY.origins.items() if origin.recipe),
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.train
    resources:
        **asks("train"),
        launch=launch,  # no parameter: where a training runs is no reason to train again
    params:
        recipe=recipe,
        seed=seed_option,
        version=VERSION,
    shell:
        "rm -rf $(dirname {output.manifest})"
        " && {resources.launch} contextgraft train --config {params.recipe} --base $(dirname {input.base})"
        " --out $(dirname {output.manifest}) {params.seed} > {log} 2>&1"
