# in: base, donor    out: data/<study>/adapters/s<seed>/r<rank>/, every rank from one pass


rule extract:
    input:
        base=BASE,
        donor=DONOR,
    output:
        manifests=expand(ADAPTER, seed="{seed}", rank=RANKS),
    log:
        f"{LOGS}/extract/s{{seed}}.log",
    benchmark:
        f"{TIMES}/extract/s{{seed}}.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.extract
    resources:
        **asks("extract"),
    params:
        ranks=[f"--rank {rank}" for rank in RANKS],
        options=cli_arguments.extraction(SETTINGS),
        out=lambda wildcards, output: Path(output.manifests[0]).parents[1],
        version=VERSION,
    shell:
        "rm -rf {params.out}"
        " && contextgraft extract --base $(dirname {input.base}) --donor $(dirname {input.donor})"
        " {params.ranks} {params.options:q} --out {params.out} --threads {threads} > {log} 2>&1"
