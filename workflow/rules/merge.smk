# in: an adapter, a fine-tune    out: data/<study>/grafts/s<seed>/<target>/{r<rank>,theta-only}/


rule merge:
    input:
        adapter=ADAPTER,
        target=TARGET,
    output:
        manifest=GRAFT.replace("{kind}", "r{rank}"),
    log:
        f"{LOGS}/merge/s{{seed}}/{{target}}/r{{rank}}.log",
    benchmark:
        f"{TIMES}/merge/s{{seed}}/{{target}}/r{{rank}}.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        version=VERSION,
    shell:
        "rm -rf $(dirname {output.manifest})"
        " && contextgraft merge --adapter $(dirname {input.adapter}) --target $(dirname {input.target})"
        " --out $(dirname {output.manifest}) --threads {threads} > {log} 2>&1"


# The control row: the donor's RoPE, the fine-tune's weights byte for byte. Any rank's adapter carries the same RoPE.
rule theta_only:
    input:
        adapter=ADAPTER.replace("{rank}", str(RANKS[0])),
        target=TARGET,
    output:
        manifest=GRAFT.replace("{kind}", "theta-only"),
    log:
        f"{LOGS}/merge/s{{seed}}/{{target}}/theta-only.log",
    benchmark:
        f"{TIMES}/merge/s{{seed}}/{{target}}/theta-only.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        version=VERSION,
    shell:
        "rm -rf $(dirname {output.manifest})"
        " && contextgraft merge --scale 0 --adapter $(dirname {input.adapter}) --target $(dirname {input.target})"
        " --out $(dirname {output.manifest}) --threads {threads} > {log} 2>&1"
