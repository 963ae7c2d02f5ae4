# in: samples, adapters, records of grafts, alignments    out: results/<study>/report/
# The command replaces the folder as a whole: page, summary, charts, tables of charts, model cards.


rule report:
    input:
        samples=SAMPLES,
        adapters=ADAPTER_MANIFESTS,
        grafts=RECORDS,
        alignments=ALIGNMENTS,
    output:
        page=report(f"{REPORT}/index.html", caption="../report/page.rst", category="Evidence"),
        summary=f"{REPORT}/summary.json",
        charts=report(
            directory(f"{REPORT}/charts"),
            patterns=["{chart}.svg"],
            caption="../report/chart.rst",
            category="Charts",
        ),
        cards=report(
            directory(f"{REPORT}/cards"),
            patterns=["{card}.md"],
            caption="../report/card.rst",
            category="Model cards",
        ),
        plots=directory(f"{REPORT}/plots"),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{TIMES}/report.tsv"
    conda:
        "../../envs/contextgraft.yaml"
    resources:
        **asks("report"),
    params:
        adapters=lambda wildcards, input: [f"--adapter {folder(manifest)}" for manifest in input.adapters],
        grafts=f"--graft {RESULTS}/grafts",
        alignments=lambda wildcards, input: [f"--alignment {table}" for table in input.alignments],
        note=["--note", SETTINGS.note] if SETTINGS.note else [],
        out=lambda wildcards, output: folder(output.page),
        version=VERSION,
    shell:
        "contextgraft report {input.samples} {params.adapters} {params.grafts} {params.alignments} {params.note:q}"
        " --out {params.out} > {log} 2>&1"
