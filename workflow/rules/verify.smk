# in: the graft of the largest rank, its fine-tune, its adapter    out: results/<study>/verified/s<seed>/<target>.json
# Every changed tensor is computed again from adapter and fine-tune. Other grafts: `contextgraft verify` by hand.


rule verify:
    input:
        graft=GRAFT.replace("{kind}", f"r{RANKS[-1]}"),
        target=TARGET,
        adapter=ADAPTER.replace("{rank}", str(RANKS[-1])),
    output:
        verdict=VERDICT,
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
        version=VERSION,
    shell:
        "contextgraft verify $(dirname {input.graft}) --target $(dirname {input.target})"
        " --adapter $(dirname {input.adapter}) --json > {output.verdict} 2> {log}"
