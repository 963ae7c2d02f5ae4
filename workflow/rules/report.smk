# in: samples, adapters, records of grafts, alignments    out: results/<study>/report/
# The command replaces the whole folder: page, summary, charts, tables of the charts, model cards, and copies of the
# tables that the page links to. All are declared, so that they go together to a remote storage.


rule report:
    input:
        samples=STUDY.samples(),
        adapters=STUDY.adapters(),
        grafts=STUDY.graft_records(),
        alignments=STUDY.alignments(),
    output:
        page=report(
            PATHS.page,
            caption="../report/page.rst",
            category="Results",
            labels={"document": "Results of all models"},
        ),
        summary=f"{PATHS.report}/summary.json",
        charts=report(
            directory(f"{PATHS.report}/charts"),
            patterns=["{chart}.svg"],
            caption="../report/chart.rst",
            category="Charts",
            subcategory=lambda wildcards: chart_subcategory(wildcards.chart),
            labels=lambda wildcards: chart_labels(wildcards.chart),
        ),
        cards=report(
            directory(f"{PATHS.report}/cards"),
            patterns=["{card}.md"],
            caption="../report/card.rst",
            category="Model cards",
            labels={"model": "{card}"},
        ),
        plots=directory(f"{PATHS.report}/plots"),
        samples=directory(f"{PATHS.report}/samples"),
        alignments=directory(f"{PATHS.report}/alignments"),
        copies=f"{PATHS.report}/copies.json",
    log:
        PATHS.log("report"),
    benchmark:
        PATHS.benchmark("report")
    conda:
        "../../envs/contextgraft.yaml"
    resources:
        **requested("report"),
    params:
        options=lambda wildcards: STUDY.report_arguments(),
        out=subpath(output.page, parent=True),
        version=VERSION,
    shell:
        "contextgraft report {input.samples:q} {params.options:q} --out {params.out:q} > {log:q} 2>&1"
