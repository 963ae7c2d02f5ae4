# in: a source    out: data/<study>/models/<model>/


rule fetch:
    output:
        manifest=PATHS.model,
    log:
        PATHS.log("fetch/{model}"),
    benchmark:
        PATHS.benchmark("fetch/{model}")
    wildcard_constraints:
        model=one_of(STUDY.fetched_models()),
    retries: 1
    conda:
        "../../envs/contextgraft.yaml"
    resources:
        **requested("fetch"),
    params:
        source=lambda wildcards: STUDY.source(wildcards.model),
        refusal=lambda wildcards, output: STUDY.refusal_arguments(wildcards.model, output.manifest),
        out=subpath(output.manifest, parent=True),
        version=VERSION,
    shell:
        "contextgraft {params.refusal:q} fetch --replace --out {params.out:q} -- {params.source:q} > {log:q} 2>&1"
