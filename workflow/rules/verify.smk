# in: the graft of the largest rank, its fine-tune, its adapter    out: results/<study>/verified/s<seed>/<target>.json
# Every changed tensor is computed again from adapter and fine-tune. For other grafts, run `contextgraft verify`.


rule verify:
    input:
        graft=lambda wildcards: STUDY.graft_input(wildcards.seed, wildcards.target, f"r{STUDY.ranks[-1]}"),
        target=PATHS.target,
        adapter=PATHS.adapter.replace("{rank}", str(STUDY.ranks[-1])),
    output:
        verdict=PATHS.verdict,
    log:
        PATHS.log("verify/s{seed}/{target}"),
    benchmark:
        PATHS.benchmark("verify/s{seed}/{target}")
    priority: 1
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.merge
    resources:
        **requested("verify"),
    params:
        graft=lambda wildcards: STUDY.graft_folder(wildcards.seed, wildcards.target, f"r{STUDY.ranks[-1]}"),
        target=subpath(input.target, parent=True),
        adapter=subpath(input.adapter, parent=True),
        version=VERSION,
    shell:
        "contextgraft verify {params.graft:q} --target {params.target:q} --adapter {params.adapter:q}"
        " --allow-refused --json > {output.verdict:q} 2> {log:q}"
