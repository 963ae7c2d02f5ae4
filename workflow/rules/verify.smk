# in: the graft of the largest rank, its fine-tune, its adapter    out: results/<study>/verified/s<seed>/<target>.json
# Every changed tensor is computed again from adapter and fine-tune. Other grafts: `contextgraft verify` by hand.


rule verify:
    input:
        graft=lambda wildcards: watched(wildcards.seed, wildcards.target, f"r{RANKS[-1]}"),
        target=TARGET,
        adapter=ADAPTER.replace("{rank}", str(RANKS[-1])),
    output:
        verdict=VERDICT,
    log:
        f"{LOGS}/verify/s{{seed}}/{{target}}.log",
    benchmark:
        f"{TIMES}/verify/s{{seed}}/{{target}}.tsv"
    priority: 1
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        **asks("verify"),
    params:
        graft=lambda wildcards: graft(wildcards.seed, wildcards.target, f"r{RANKS[-1]}"),
        version=VERSION,
    shell:
        "contextgraft verify {params.graft} --target $(dirname {input.target})"
        " --adapter $(dirname {input.adapter}) --allow-refused --json > {output.verdict} 2> {log}"
