# in: base, donor, a fine-tune    out: results/<study>/alignment/s<seed>/<target>.parquet
# Whether donor and fine-tune changed the base in the same direction, tensor by tensor. For a refused fine-tune the
# table is empty.


rule align:
    input:
        base=PATHS.base,
        donor=PATHS.donor,
        target=PATHS.target,
    output:
        table=PATHS.alignment,
    log:
        PATHS.log("align/s{seed}/{target}"),
    benchmark:
        PATHS.benchmark("align/s{seed}/{target}")
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.merge
    resources:
        **requested("align"),
    params:
        base=subpath(input.base, parent=True),
        donor=subpath(input.donor, parent=True),
        target=subpath(input.target, parent=True),
        version=VERSION,
    shell:
        "contextgraft align --base {params.base:q} --donor {params.donor:q} --target {params.target:q}"
        " --allow-refused --out {output.table:q} --threads {threads} > {log:q} 2>&1"
