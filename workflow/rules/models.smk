# in: a source    out: data/<study>/models/<model>/


rule fetch:
    output:
        manifest=MODEL,
    log:
        f"{LOGS}/fetch/{{model}}.log",
    benchmark:
        f"{TIMES}/fetch/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(name for name, origin in STUDY.origins.items() if origin.source),
    retries: 1
    conda:
        "../../envs/contextgraft.yaml"
    resources:
        **asks("fetch"),
    params:
        source=source,
        refusal=lambda wildcards, output: refusal(wildcards.model, folder(output.manifest)),
        version=VERSION,
    shell:
        "rm -rf $(dirname {output.manifest})"
        " && contextgraft {params.refusal} fetch {params.source} --out $(dirname {output.manifest}) > {log} 2>&1"
