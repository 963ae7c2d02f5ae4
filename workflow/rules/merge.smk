# in: a fine-tune, adapters, the recommended rank    out: data/<study>/grafts/s<seed>/<target>/<kind>/
# Only grafts that are kept are written. Each is verified at once: every changed tensor is computed again.


rule merge:
    input:
        target=PATHS.target,
        adapters=lambda wildcards: STUDY.graft_adapters(wildcards.seed, wildcards.kind),
        recommendation=lambda wildcards: STUDY.graft_recommendation(wildcards.target, wildcards.kind),
    output:
        manifest=PATHS.graft,
        verdict=PATHS.verdict,
    log:
        PATHS.log("merge/s{seed}/{target}/{kind}"),
    benchmark:
        PATHS.benchmark("merge/s{seed}/{target}/{kind}")
    priority: 1
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.merge
    resources:
        **requested("merge"),
    params:
        target=subpath(input.target, parent=True),
        options=lambda wildcards: STUDY.merge_arguments(wildcards.seed, wildcards.target, wildcards.kind),
        out=subpath(output.manifest, parent=True),
        version=VERSION,
    shell:
        "contextgraft --refusal {params.out:q} merge {params.options:q} --target {params.target:q}"
        " --replace --out {params.out:q} --verify {output.verdict:q} --threads {threads} > {log:q} 2>&1"
