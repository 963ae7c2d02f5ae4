# in: samples, adapters    out: results/<study>/report/{index.html,summary.json,charts/}


rule report:
    input:
        samples=SAMPLES,
        adapters=ADAPTER_MANIFESTS,
    output:
        page=report(PAGE, caption="../report/page.rst", category="Evidence"),
        summary=SUMMARY,
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{TIMES}/report.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        adapters=lambda wildcards, input: [
            f"--adapter {Path(manifest).parent}" for manifest in input.adapters
        ],
        note=["--note", SETTINGS.note] if SETTINGS.note else [],
        version=VERSION,
    shell:
        "contextgraft report {input.samples} {params.adapters} {params.note:q} --out $(dirname {output.page}) > {log} 2>&1"
