# in: grafts    out: results/<study>/verified/s<seed>/<target>.json


rule verify:
    input:
        grafts=expand(GRAFT, seed="{seed}", target="{target}", kind=KINDS),
    output:
        verdicts=VERDICT,
    log:
        f"{LOGS}/verify/s{{seed}}/{{target}}.log",
    benchmark:
        f"{TIMES}/verify/s{{seed}}/{{target}}.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        grafts=lambda wildcards, input: [
            Path(manifest).parent for manifest in input.grafts
        ],
        version=VERSION,
    shell:
        "contextgraft verify {params.grafts} --json > {output.verdicts} 2> {log}"
