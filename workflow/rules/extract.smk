# in: base, donor    out: data/<study>/adapters/s<seed>/r<rank>/, all ranks in one pass


rule extract:
    input:
        base=PATHS.base,
        donor=PATHS.donor,
    output:
        manifests=expand(PATHS.adapter, seed="{seed}", rank=STUDY.ranks),
    log:
        PATHS.log("extract/s{seed}"),
    benchmark:
        PATHS.benchmark("extract/s{seed}")
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.extract
    resources:
        **requested("extract"),
    params:
        base=subpath(input.base, parent=True),
        donor=subpath(input.donor, parent=True),
        options=lambda wildcards: STUDY.extract_arguments(),
        out=subpath(output[0], ancestor=2),
        version=VERSION,
    shell:
        "contextgraft extract --base {params.base:q} --donor {params.donor:q} {params.options:q}"
        " --replace --prune --out {params.out:q} --threads {threads} > {log:q} 2>&1"
