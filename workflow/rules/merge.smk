# in: an adapter, a fine-tune    out: data/<study>/grafts/s<seed>/<target>/{r<rank>,theta-only}/
# A graft that passes is deleted when everything has read it; its record under results/<study>/grafts stays.


rule merge:
    input:
        adapter=ADAPTER,
        target=TARGET,
    output:
        manifest=f"{GRAFT}/contextgraft.json".replace("{kind}", "r{rank}"),
        record=RECORD.replace("{kind}", "r{rank}"),
    log:
        f"{LOGS}/merge/s{{seed}}/{{target}}/r{{rank}}.log",
    benchmark:
        f"{TIMES}/merge/s{{seed}}/{{target}}/r{{rank}}.tsv"
    wildcard_constraints:
        target=one_of(KEPT),
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        **asks("merge"),
    params:
        out=lambda wildcards: graft(wildcards.seed, wildcards.target, f"r{wildcards.rank}"),
        refusal=lambda wildcards: refusal(
            wildcards.target, graft(wildcards.seed, wildcards.target, f"r{wildcards.rank}")
        ),
        version=VERSION,
    shell:
        "rm -rf {params.out} && contextgraft {params.refusal} merge --adapter $(dirname {input.adapter})"
        " --target $(dirname {input.target}) --out {params.out} --threads {threads} > {log} 2>&1"
        " && cp {params.out}/contextgraft.json {output.record}"


use rule merge as merge_passing with:
    output:
        folder=temp(directory(PASSAGE.replace("{kind}", "r{rank}"))),
        record=RECORD.replace("{kind}", "r{rank}"),
    wildcard_constraints:
        target=one_of(PASSING),


# The control row: the donor's RoPE, the fine-tune's weights byte for byte. Any rank's adapter carries the same RoPE.
rule theta_only:
    input:
        adapter=ADAPTER.replace("{rank}", str(RANKS[0])),
        target=TARGET,
    output:
        manifest=f"{GRAFT}/contextgraft.json".replace("{kind}", "theta-only"),
        record=RECORD.replace("{kind}", "theta-only"),
    log:
        f"{LOGS}/merge/s{{seed}}/{{target}}/theta-only.log",
    benchmark:
        f"{TIMES}/merge/s{{seed}}/{{target}}/theta-only.tsv"
    wildcard_constraints:
        target=one_of(KEPT),
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        **asks("theta_only"),
    params:
        out=lambda wildcards: graft(wildcards.seed, wildcards.target, "theta-only"),
        refusal=lambda wildcards: refusal(
            wildcards.target, graft(wildcards.seed, wildcards.target, "theta-only")
        ),
        version=VERSION,
    shell:
        "rm -rf {params.out} && contextgraft {params.refusal} merge --scale 0 --adapter $(dirname {input.adapter})"
        " --target $(dirname {input.target}) --out {params.out} --threads {threads} > {log} 2>&1"
        " && cp {params.out}/contextgraft.json {output.record}"


use rule theta_only as theta_only_passing with:
    output:
        folder=temp(directory(PASSAGE.replace("{kind}", "theta-only"))),
        record=RECORD.replace("{kind}", "theta-only"),
    wildcard_constraints:
        target=one_of(PASSING),
