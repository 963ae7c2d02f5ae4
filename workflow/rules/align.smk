# in: base, donor, a fine-tune    out: results/<study>/alignment/s<seed>/<target>.parquet
# Whether the two trainings moved the base the same way, tensor by tensor; of a refused fine-tune a table without rows.


rule align:
    input:
        base=BASE,
        donor=DONOR,
        target=TARGET,
    output:
        table=ALIGNMENT,
    log:
        f"{LOGS}/align/s{{seed}}/{{target}}.log",
    benchmark:
        f"{TIMES}/align/s{{seed}}/{{target}}.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    threads: SETTINGS.threads.merge
    resources:
        **asks("align"),
    params:
        version=VERSION,
    shell:
        "contextgraft align --base $(dirname {input.base}) --donor $(dirname {input.donor})"
        " --target $(dirname {input.target}) --allow-refused --out {output.table} --threads {threads} > {log} 2>&1"
